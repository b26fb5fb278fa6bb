"""Tables as text: Markdown and LaTeX in percent for readers, CSV and JSON as full fractions for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from aimbench.errors import ConfigError, nearest_names
from aimbench.results.markup import NEEDS_BOOKTABS, bullets, csv_text, heading, latex_table, markdown_grid
from aimbench.results.reference import Reference
from aimbench.results.tables import COST, Cell, Row, Table

Format = Literal["md", "csv", "json", "latex"]

_MISSING = "-"
_USUAL = ("accuracy", "worst_group_accuracy", "epg_gradcam", "epg_input_x_gradient")
_GAP = 3  # characters between columns that a terminal draws
_COSTS = ("Trained (M)", "GMACs", "Seconds")
_REFERENCE_TITLE = (
    "Published numbers, in percent as printed. Not ranked with ours: backbone, selector and training differ."
)


def render(table: Table, format: Format) -> str:
    """Returns one table as text; see `render_all`."""
    return render_all([table], format)


def render_all(tables: Sequence[Table], format: Format, references: Sequence[Reference] = ()) -> str:
    """Returns tables as text, with published numbers beneath.

    Args:
        tables: The tables, in the order to show them.
        format: ``md`` or ``latex`` (percent, one decimal), ``csv`` or ``json`` (fractions in full precision).
        references: Published numbers for beneath the tables. CSV has no room for them.

    Raises:
        ConfigError: If the format is unknown, or references are asked for in CSV.
    """
    if format == "csv" and references:
        raise ConfigError(
            "format csv: published numbers have other columns than ours; use md, json or latex, "
            "or read results/reference/*.csv"
        )
    if format == "md":
        return _markdown(tables, references)
    if format == "csv":
        return _csv(tables)
    if format == "json":
        return _json(tables, references)
    if format == "latex":
        return _latex(tables, references)
    raise ConfigError(f"format '{format}' is unknown; {nearest_names(format, get_args(Format))}")


def title(table: Table) -> str:
    """Returns what all runs of a table share, in one line."""
    return (
        f"{table.dataset}@{table.variant} ({table.kind}, fingerprint {table.fingerprint[:12]}), "
        f"{table.backbone} (weights {table.weights}, {table.weights_hash[:12]}), selector {table.selector}"
        + (", EPG by boxes" if table.epg_region == "boxes" else "")
    )


def command(table: Table) -> str:
    """Returns what makes this table alone from the records."""
    return f"aimbench results table --dataset {table.dataset}@{table.variant} --id {table.id}"


def grid(table: Table) -> list[list[str]]:
    """Returns the header and the rows as text in percent; methods carry the number of their `run_notes`.

    ``≈`` marks a cell inside the noise of the best; `best_places` says which are the best.
    """
    lines = [_header(table)]
    for number, row in enumerate(table.rows, 1):
        line = [f"{row.method} ({number})", row.regime or _MISSING]
        line += [row.config or _MISSING] if "Config" in lines[0] else []
        line += [row.settings or _MISSING] if "Settings" in lines[0] else []
        line += [str(row.n), *(percent(row.cells.get(column.key), row) for column in table.columns)]
        lines.append([*line, *_costs(row)] if table.shows_cost else line)
    return lines


def fits(lines: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a grid can be drawn in ``width`` characters without a line break in a cell."""
    return 1 + sum(max(map(len, column)) + _GAP for column in _across(lines)) <= width


def narrow_grid(table: Table, width: int) -> tuple[list[list[str]], set[tuple[int, int]], list[str]]:
    """Returns what of a table fits a terminal: methods and, of the metrics, the usual ones first, without intervals.

    Args:
        table: The table.
        width: Of the terminal, in characters.

    Returns:
        The grid, its best places (as `best_places`), and the keys of the columns that it lacks. What tells rows
        apart is in their `row_notes`.
    """
    names = [["Method", *(f"{row.method} ({number})" for number, row in enumerate(table.rows, 1))]]
    names.append(["n", *(str(row.n) for row in table.rows)])
    blocks: dict[str, list[str]] = {}
    for column in sorted(table.columns, key=lambda column: column.key not in _USUAL):
        block = [column.title, *(_brief(row.cells.get(column.key)) for row in table.rows)]
        if fits(_across([*names, *blocks.values(), block]), width):
            blocks[column.key] = block
    shown = [column.key for column in table.columns if column.key in blocks]
    best = _best(table, shown, len(names))
    left_out = [column.key for column in table.columns if column.key not in blocks] + [COST] * table.shows_cost
    return _across([*names, *(blocks[key] for key in shown)]), best, left_out


def _across(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(line) for line in zip(*columns, strict=True)]


def row_notes(table: Table) -> list[str]:
    """Returns one line a row with what tells it apart, for a grid that leaves it out, and the ids of its runs."""
    return [
        f"({number}) {'; '.join(part for part in (row.regime, row.config, row.settings) if part)}: "
        f"{', '.join(row.records)}"
        for number, row in enumerate(table.rows, 1)
    ]


def _brief(cell: Cell | None) -> str:
    return _MISSING if cell is None else mean_and_spread(cell) + (" ≈" if cell.mark == "noise" else "")


def best_places(table: Table) -> set[tuple[int, int]]:
    """Returns line and column in the `grid` of the cells that are the best of their column and regime."""
    first = len(_header(table)) - len(table.columns) - (len(_COSTS) if table.shows_cost else 0)
    return _best(table, [column.key for column in table.columns], first)


def _best(table: Table, keys: Sequence[str], first: int) -> set[tuple[int, int]]:
    """Line and column of the best cells where ``keys`` are the columns from ``first`` on."""
    return {
        (line, place)
        for line, row in enumerate(table.rows, 1)
        for place, key in enumerate(keys, first)
        if key in row.cells and row.cells[key].mark == "best"
    }


def run_notes(table: Table) -> list[str]:
    """Returns one line a row that leads from its numbers back to the ids of its runs."""
    return [f"({number}) {', '.join(row.records)}" for number, row in enumerate(table.rows, 1)]


def reference_grid(references: Sequence[Reference]) -> list[list[str]]:
    """Returns the header and the rows of published numbers, as text."""
    lines = [["Method", "Dataset", "Backbone", "Metric", "Value", "Selector", "Average", "Source", "Confidence"]]
    for r in references:
        value = f"{r.value:g}" + (f" ± {r.std:g}" if r.std is not None else "")
        dataset = f"{r.dataset}@{r.variant}" if r.variant else r.dataset
        cells = [
            r.method,
            dataset,
            r.backbone,
            r.metric,
            value,
            r.selector,
            r.average,
            r.source,
            r.confidence,
        ]
        lines.append([cell or _MISSING for cell in cells])
    return lines


def _header(table: Table) -> list[str]:
    settings = ["Config"] if any(row.config for row in table.rows) else []
    settings += ["Settings"] if any(row.settings for row in table.rows) else []
    costs = _COSTS if table.shows_cost else ()
    return ["Method", "Regime", *settings, "n", *(column.title for column in table.columns), *costs]


def _costs(row: Row) -> list[str]:
    cost = row.cost
    return [
        _MISSING if cost.trained is None else f"{cost.trained / 1e6:.3g}",
        _MISSING if cost.gmacs is None else f"{cost.gmacs:.2f}",
        _MISSING if cost.seconds is None else f"{cost.seconds:.0f}",
    ]


def percent(cell: Cell | None, row: Row) -> str:
    """Returns a cell as text in percent: mean and spread over the runs, or a single run's interval."""
    if cell is None:
        return _MISSING
    text = f"{100 * cell.value:.1f}"
    text += f" [{100 * cell.low:.1f}, {100 * cell.high:.1f}]" if cell.std is None else f" ± {100 * cell.std:.1f}"
    text += " ≈" if cell.mark == "noise" else ""
    text += f" (n={cell.n})" if cell.n != row.n else ""
    return text + (f" ({'; '.join(cell.detail)})" if cell.detail else "")


def mean_and_spread(cell: Cell) -> str:
    """Returns a cell's mean in percent and, over several runs, its sample standard deviation."""
    return f"{100 * cell.value:.1f}" + (f" ± {100 * cell.std:.1f}" if cell.std is not None else "")


def _markdown(tables: Sequence[Table], references: Sequence[Reference]) -> str:
    blocks = []
    for table in tables:
        notes = [*table.notes, "Runs: " + "; ".join(run_notes(table)) + ".", f"{table.id}: `{command(table)}`"]
        lines = markdown_grid(grid(table), best_places(table))
        blocks.append("\n".join([heading(title(table)), "", *lines, "", *bullets(notes)]))
    if references:
        blocks.append("\n".join([f"**{_REFERENCE_TITLE}**", "", *markdown_grid(reference_grid(references))]))
    return "\n\n".join(blocks) + "\n"


def _latex(tables: Sequence[Table], references: Sequence[Reference]) -> str:
    blocks = [
        latex_table(
            grid(table),
            f"{title(table)}.",
            table.notes,
            comments=[f"{table.id}: {command(table)}", *run_notes(table)],
            bold=best_places(table),
            label=table.id,
        )
        for table in tables
    ]
    if references:
        blocks.append(latex_table(reference_grid(references), _REFERENCE_TITLE))
    return NEEDS_BOOKTABS + "\n\n".join(blocks) + "\n"


def _csv(tables: Sequence[Table]) -> str:
    rows = [
        {**shared, **_flat_row(table, row)} for table in tables for shared in [_shared(table)] for row in table.rows
    ]
    # Tables may differ in their attributions and test conditions.
    return csv_text(rows)


def _flat_row(table: Table, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "method": row.method,
        "regime": row.regime,
        "config": row.config,
        "settings": row.settings,
        "n": row.n,
        "records": " ".join(row.records),
    }
    for column in table.columns:
        cell = row.cells.get(column.key)
        flat[column.key] = cell.value if cell else None
        for name in ("std", "low", "high", "mark"):
            flat[f"{column.key}_{name}"] = getattr(cell, name) if cell else None
        if column.key == "worst_group_accuracy":
            flat["worst_group"] = "; ".join(cell.detail) if cell else None
    if not table.shows_cost:
        return flat
    return {**flat, "trained_parameters": row.cost.trained, "gmacs": row.cost.gmacs, "wall_seconds": row.cost.seconds}


def _shared(table: Table) -> dict[str, str]:
    return {
        "table": table.id,
        "command": command(table),
        "dataset": table.dataset,
        "variant": table.variant,
        "kind": table.kind,
        "fingerprint": table.fingerprint,
        "backbone": table.backbone,
        "weights": table.weights,
        "weights_hash": table.weights_hash,
        "selector": table.selector,
        "epg_region": table.epg_region,
    }


def _json(tables: Sequence[Table], references: Sequence[Reference]) -> str:
    content = {
        "tables": [
            {**_shared(table), "notes": table.notes, "rows": [asdict(row) for row in table.rows]} for table in tables
        ],
        "references": [reference.model_dump() for reference in references],
    }
    return json.dumps(content, indent=1) + "\n"
