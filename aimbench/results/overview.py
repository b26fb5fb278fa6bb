"""Methods down, datasets across: one metric of each method on every dataset, as a paper's first table has it."""

import json
from collections.abc import Sequence
from typing import Any

from aimbench.errors import ConfigError, nearest_names
from aimbench.results.markup import NEEDS_BOOKTABS, bullets, csv_text, latex_table, markdown_grid
from aimbench.results.render import Format, mean_and_spread
from aimbench.results.tables import Cell, Row, Table

HEADLINE = "headline"
"""Stands for `aimbench.results.tables.Table.headline`."""
_MISSING = "-"
_SHARED = ("kind", "backbone", "weights", "selector", "epg_region")

Place = tuple[Table, str, dict[str, Row]]
"""A column: the table, the metric's key in it, and the row of each method that has the metric."""


def render_overview(tables: Sequence[Table], metric: str, format: Format, notes: Sequence[str] = ()) -> str:
    """Returns one metric of all methods on all datasets as text.

    Args:
        tables: The tables; of a method's rows in one the row with most seeds is shown.
        metric: A column's key, such as ``accuracy`` or ``epg_gradcam``, or ``headline``.
        format: ``md`` or ``latex`` (percent, one decimal), ``csv`` or ``json`` (fractions in full precision).
        notes: What else to say beneath a table of ``md`` or ``latex``.

    Raises:
        ConfigError: If no table has the metric.
    """
    places = _places(tables, metric)
    if not places:
        known = sorted({column.key for table in tables for column in table.columns})
        raise ConfigError(f"no table has the metric '{metric}': {nearest_names(metric, [HEADLINE, *known])}")
    if format == "json":
        return json.dumps(_flat(places), indent=1) + "\n"
    if format == "csv":
        return csv_text(_flat(places))
    grid, beneath = _grid(places), [*_notes(places), *notes]
    if format == "md":
        return "\n".join([*markdown_grid(grid), "", *bullets(beneath)]) + "\n"
    return NEEDS_BOOKTABS + latex_table(grid, beneath[0], beneath[1:]) + "\n"


def _places(tables: Sequence[Table], metric: str) -> list[Place]:
    places = []
    for table in tables:
        key = table.headline if metric == HEADLINE else metric
        rows: dict[str, Row] = {}
        for row in table.rows:
            if key in row.cells and (row.method not in rows or row.n > rows[row.method].n):
                rows[row.method] = row
        if rows:
            places.append((table, key, rows))
    return places


def _methods(places: Sequence[Place]) -> list[tuple[str, str]]:
    """Methods with each of their regimes, in the order of the tables: by regime, then by name."""
    found = {(row.method, row.regime) for _, _, rows in places for row in rows.values()}
    return sorted(found, key=lambda one: (one[1], one[0]))


def _grid(places: Sequence[Place]) -> list[list[str]]:
    varying = _varying(places)
    titles = [", ".join(_title(place, varying)) for place in places]
    # Builds of one variant with other samples differ in nothing that a reader would know them by.
    titles = [
        title if titles.count(title) == 1 else f"{title} ({table.id})"
        for title, (table, _, _) in zip(titles, places, strict=True)
    ]
    lines = [["Method", "Regime", *titles]]
    for method, regime in _methods(places):
        shown = [(rows.get(method), key) for _, key, rows in places]
        cells = [row.cells[key] if row and row.regime == regime else None for row, key in shown]
        lines.append([method, regime, *map(_text, cells)])
    return lines


def _title(place: Place, varying: Sequence[str]) -> list[str]:
    table, key, _ = place
    metric = next(column.title for column in table.columns if column.key == key)
    return [f"{table.dataset}@{table.variant}", *(getattr(table, name) for name in varying), metric]


def _varying(places: Sequence[Place]) -> list[str]:
    """What the columns do not share, so that each title has to say it."""
    return [name for name in _SHARED if len({getattr(table, name) for table, _, _ in places}) > 1]


def _text(cell: Cell | None) -> str:
    return _MISSING if cell is None else f"{mean_and_spread(cell)} ({cell.n})"


def _notes(places: Sequence[Place]) -> list[str]:
    first, varying = places[0][0], _varying(places)
    shared = ", ".join(f"{name.replace('_', ' ')} {getattr(first, name)}" for name in _SHARED if name not in varying)
    return [
        "In percent: mean, sample standard deviation over the seeds, in brackets their number.",
        *([f"All columns: {shared}."] if shared else []),
        f"Tables: {', '.join(table.id for table, _, _ in places)}.",
    ]


def _flat(places: Sequence[Place]) -> list[dict[str, Any]]:
    return [
        {
            "table": table.id,
            "dataset": table.dataset,
            "variant": table.variant,
            "kind": table.kind,
            "backbone": table.backbone,
            "selector": table.selector,
            "metric": key,
            "method": row.method,
            "regime": row.regime,
            "n": row.n,
            "value": row.cells[key].value,
            "std": row.cells[key].std,
            "low": row.cells[key].low,
            "high": row.cells[key].high,
            "records": " ".join(row.records),
        }
        for table, key, rows in places
        for row in rows.values()
    ]
