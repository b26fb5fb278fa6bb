"""Runs as flat JSON Lines, one a run with the same columns in each: what pandas and `datasets` open in one line.

Records themselves are nested, and two methods have different settings; a reader that infers one schema for all of
them stumbles over that.
"""

import json
from collections.abc import Iterable
from typing import Any

from aimbench.record import Record
from aimbench.results.digest import digest


def json_lines(records: Iterable[Record]) -> str:
    """Returns one JSON object a line: what defines each run (settings as JSON text) and its test metrics.

    Metrics are fractions under their column key, with ``_low`` and ``_high``; one that a run lacks is null.
    """
    rows = [_flat(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return "".join(json.dumps({name: row.get(name) for name in names}) + "\n" for row in rows)


def _flat(record: Record) -> dict[str, Any]:
    run = digest(record)
    row = {
        "id": run.id,
        "method": run.method,
        "dataset": run.dataset,
        "variant": run.variant,
        "kind": run.kind,
        "fingerprint": run.fingerprint,
        "backbone": run.backbone,
        "weights_hash": run.weights_hash,
        "selector": run.selector,
        "seed": run.seed,
        "regime": json.dumps(run.regime),
        "config": json.dumps(run.config),
        "settings": json.dumps(run.settings),
        "revision": run.revision,
        "created": run.created,
        "wall_seconds": record.cost.wall_seconds,
        "parameters": record.cost.parameters,
        "worst_group": run.worst_group,
    }
    for key, score in run.scores.items():
        row |= {key: score.value, f"{key}_low": score.low, f"{key}_high": score.high}
    return row
