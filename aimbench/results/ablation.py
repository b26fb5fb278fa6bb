"""A method's settings one at a time: what each change does, against the runs that it changes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aimbench.record import with_later
from aimbench.results.describe import describe
from aimbench.results.digest import Digest
from aimbench.results.evidence import Difference, paired_difference
from aimbench.results.markup import NEEDS_BOOKTABS, bullets, csv_text, heading, latex_table, markdown_grid
from aimbench.results.render import Format, mean_and_spread, title
from aimbench.results.render_evidence import difference_columns, points
from aimbench.results.tables import Row, Table

NOTES = (
    "Each line changes one setting of the first. In percent: mean and sample standard deviation over the seeds.",
    "Difference: points to the first line over the seeds that both have, with Student's 95 % interval over the seeds "
    "(a single seed has none).",
)
_BESIDE = ("accuracy", "epg_gradcam", "epg_input_x_gradient", "epg_mask")
_MISSING = "-"


@dataclass(frozen=True)
class Ablation:
    """One row of a table as a change of another.

    Attributes:
        row: The row.
        change: The one setting that differs from the base, as ``key=value``; empty for the base itself.
        difference: Of the table's headline to the base; None for the base, and without a common seed.
    """

    row: Row
    change: str
    difference: Difference | None


def make_ablations(
    table: Table,
    runs: Iterable[Digest],
    method: str,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    earlier: Mapping[str, Any],
) -> list[Ablation]:
    """Returns the base and every row that differs from it in one setting of the method, in the settings' order.

    Args:
        table: The table.
        runs: At least the runs that it was made from.
        method: Name of the method.
        config: All of its settings in the base.
        training: Training settings of the base; rows with others are left out.
        earlier: Settings that records of a time before them lack, with the values that those were made with.

    Returns:
        The base first; empty if the table has no row of it.
    """
    by_id = {run.id: run for run in runs}
    members: list[tuple[list[str], Row, list[Digest]]] = []
    for row in table.rows:
        of_row = [by_id[name] for name in row.records]
        own = with_later(of_row[0].config, earlier)
        comparable = row.method == method and of_row[0].training == training and own.keys() == config.keys()
        if comparable and table.headline in row.cells:
            members.append(([key for key in config if own[key] != config[key]], row, of_row))
    bases = [(row, of_row) for changed, row, of_row in members if not changed]
    if not bases:
        return []
    # Rows that differ in the evaluation alone stand apart in a table; the base with most seeds is the one meant.
    base, of_base = max(bases, key=lambda one: one[0].n)
    lines = [Ablation(base, "", None)]
    for key in config:
        for changed, row, of_row in members:
            if changed == [key] and of_row[0].settings == of_base[0].settings:
                change = describe({key: with_later(of_row[0].config, earlier)[key]})
                lines.append(Ablation(row, change, paired_difference(of_row, of_base, table.headline)))
    return lines


def render_ablations(found: Sequence[tuple[Table, Sequence[Ablation]]], format: Format) -> str:
    """Returns the ablations of several tables as text.

    Args:
        found: Each table with its lines, as from `make_ablations`.
        format: ``md`` or ``latex`` (percent, one decimal), ``csv`` or ``json`` (fractions in full precision).
    """
    if format == "csv":
        return csv_text([_flat(table, one) for table, lines in found for one in lines])
    if format == "json":
        return json.dumps([_flat(table, one) for table, lines in found for one in lines], indent=1) + "\n"
    if format == "latex":
        blocks = [
            latex_table(_grid(table, lines), f"{title(table)}.", NOTES, comments=[table.id]) for table, lines in found
        ]
        return NEEDS_BOOKTABS + "\n\n".join(blocks) + "\n"
    grids = ["\n".join([heading(title(table)), "", *markdown_grid(_grid(table, lines))]) for table, lines in found]
    notes = [*NOTES, f"Tables: {', '.join(table.id for table, _ in found)}."]
    return "\n\n".join([*grids, "\n".join(bullets(notes))]) + "\n"


def _grid(table: Table, lines: Sequence[Ablation]) -> list[list[str]]:
    metric = table.headline
    shown = {column.key: column.title for column in table.columns}
    beside = [key for key in _BESIDE if key != metric and any(key in one.row.cells for one in lines)]
    grid = [["Change", "n", shown[metric], "Difference", *(shown[key] for key in beside)]]
    for one in lines:
        cells = one.row.cells
        others = [mean_and_spread(cells[key]) if key in cells else _MISSING for key in beside]
        value = mean_and_spread(cells[metric])
        grid.append([one.change or _MISSING, str(one.row.n), value, points(one.difference), *others])
    return grid


def _flat(table: Table, one: Ablation) -> dict[str, Any]:
    return {
        "table": table.id,
        "dataset": table.dataset,
        "variant": table.variant,
        "method": one.row.method,
        "change": one.change,
        "n": one.row.n,
        "metric": table.headline,
        "value": one.row.cells[table.headline].value,
        **difference_columns(one.difference),
        **{key: one.row.cells[key].value if key in one.row.cells else None for key in _BESIDE},
        "records": " ".join(one.row.records),
    }
