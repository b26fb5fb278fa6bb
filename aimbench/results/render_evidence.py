"""Evidence against ERM as text: Markdown and LaTeX in percent, CSV and JSON as full fractions."""

import json
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from aimbench.results.evidence import Difference, Evidence
from aimbench.results.markup import NEEDS_BOOKTABS, bullets, csv_text, heading, latex_table, markdown_grid
from aimbench.results.notes import OF_CONFIG
from aimbench.results.render import Format, mean_and_spread, title
from aimbench.results.tables import Table

_MISSING = "-"
NOTES = (
    "Difference to ERM: points, over the seeds that both have, with Student's 95 % interval over the seeds "
    "(what another seed would change; a single seed has none).",
    "To topdown: the same, to AIM's head with every mask open, that is what the masks bring beyond its layers.",
    "A row is compared with the ERM, the topdown and the oracle of its own training settings; where they were not run, "
    "with those whose rates were chosen for themselves: of several the one with most seeds, then the strongest by the "
    "metric.",
    "Gap closed: (method - ERM) / (oracle mask - ERM). ≈ stands where it would say nothing: the seeds do not tell "
    "the oracle from ERM, or there is one seed only.",
    "The oracle reads ground-truth masks: a ceiling, not a competitor.",
)


def render_evidence(found: Sequence[tuple[Table, Sequence[Evidence]]], format: Format) -> str:
    """Returns the evidence of several tables as text.

    Args:
        found: Each table with its evidence, as from `aimbench.results.evidence.make_evidence`.
        format: ``md``, ``csv``, ``json`` or ``latex``.
    """
    if format == "csv":
        return csv_text([_flat(table, one) for table, evidence in found for one in evidence])
    if format == "json":
        return json.dumps([_flat(table, one) for table, evidence in found for one in evidence], indent=1) + "\n"
    blocks = []
    for table, evidence in found:
        grids = [evidence_grid(list(members)) for _, members in groupby(evidence, key=lambda one: one.metric)]
        if format == "md":
            lines = [line for grid in grids for line in [*markdown_grid(grid), ""]]
            blocks.append("\n".join([heading(title(table)), "", *lines, *bullets(_notes(table))]))
        else:
            blocks += [latex_table(grid, f"{title(table)}.", _notes(table), comments=[table.id]) for grid in grids]
    head = NEEDS_BOOKTABS if format == "latex" else ""
    return head + "\n\n".join(blocks) + "\n"


def evidence_grid(evidence: Sequence[Evidence]) -> list[list[str]]:
    """Returns the header and the rows of one metric as text."""
    lines = [["Method", "Regime", "Config", "n", evidence[0].title, "Difference to ERM", "To topdown", "Gap closed"]]
    for one in evidence:
        row = one.row
        config = ", ".join(part for part in (row.config, row.settings) if part)
        gap = _MISSING if one.gap_closed is None else "≈" if one.gap_in_noise else f"{100 * one.gap_closed:.0f} %"
        value = mean_and_spread(row.cells[one.metric])
        differences = [points(one.difference), points(one.over_control)]
        lines.append([row.method, row.regime, config or _MISSING, str(row.n), value, *differences, gap])
    return lines


def _notes(table: Table) -> list[str]:
    # Of the table's own notes: what kind of set it is, and how to read the configurations.
    return [*table.notes[:1], *(note for note in table.notes if note == OF_CONFIG), *NOTES]


def difference_columns(difference: Difference | None, name: str = "difference") -> dict[str, float | None]:
    """Returns a difference as columns of CSV and JSON, fractions in full precision; all None for none."""
    return {f"{name}_{field.name}": getattr(difference, field.name, None) for field in fields(Difference)}


def points(difference: Difference | None) -> str:
    """Returns a difference in points, with its interval if it has one; ``-`` for none."""
    if difference is None:
        return _MISSING
    text = f"{100 * difference.value:+.1f}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _flat(table: Table, one: Evidence) -> dict[str, Any]:
    return {
        "table": table.id,
        "dataset": table.dataset,
        "variant": table.variant,
        "kind": table.kind,
        "backbone": table.backbone,
        "selector": table.selector,
        "metric": one.metric,
        "method": one.row.method,
        "regime": one.row.regime,
        "config": one.row.config,
        "settings": one.row.settings,
        "n": one.row.n,
        "value": one.row.cells[one.metric].value,
        **difference_columns(one.difference),
        **difference_columns(one.over_control, "over_topdown"),
        "gap_closed": one.gap_closed,
        "gap_in_noise": one.gap_in_noise,
        "records": " ".join(one.row.records),
    }
