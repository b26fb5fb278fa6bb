"use strict";
// Sorting and filtering of tables that are complete without it. Only reads attributes; never builds HTML.

function sortBy(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const numeric = head.classList.contains("number");
  const previous = head.getAttribute("aria-sort");
  // A number is looked at from the top first.
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const direction = previous === first ? other : first;
  for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);

  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[head.cellIndex].dataset.value ?? "";
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    // A missing number is last in either direction.
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
}

function applyFilters(form) {
  const wanted = Object.fromEntries(new FormData(form));
  const matches = (element, keys) => keys.every((key) => !wanted[key] || element.dataset[key] === wanted[key]);
  let tables = 0;
  let rows = 0;
  for (const board of document.querySelectorAll(".board")) {
    let shown = 0;
    for (const row of board.querySelectorAll("table.sortable tbody tr")) {
      row.hidden = !matches(row, ["regime"]);
      shown += row.hidden ? 0 : 1;
    }
    board.hidden = shown === 0 || !matches(board, ["variant", "kind", "backbone"]);
    tables += board.hidden ? 0 : 1;
    rows += board.hidden ? 0 : shown;
  }
  document.getElementById("shown").textContent = `${rows} rows in ${tables} tables`;
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => sortBy(button));
}
const form = document.getElementById("filters");
if (form) {
  form.addEventListener("change", () => applyFilters(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  applyFilters(form);
}
