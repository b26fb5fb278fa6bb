"""Tables from records: one row a method and setting, aggregated over seeds.

Runs share a table only if they can be compared: same dataset variant, kind
(official, partial or mini), fingerprint, backbone, weights and selector.
"""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from aimbench.record import EpgScore, Interval, Kind, Record

_TEST = "test"
_CONDITION_PREFIX = "test_"
# Always shown, so that tables of different datasets read alike; other attributions follow.
_ATTRIBUTIONS = ("gradcam", "input_x_gradient", "mask", "uniform")


@dataclass(frozen=True)
class Cell:
    """One metric of one row, as fractions in [0, 1] (EPG too).

    Attributes:
        value: Mean over the runs that have the metric.
        n: Number of those runs.
        std: Sample standard deviation over the runs; None for a single run.
        low: Lower end of the 95 % interval of a single run; None for several.
        high: Upper end of that interval.
        detail: The worst groups, for worst-group accuracy; else empty.
    """

    value: float
    n: int
    std: float | None = None
    low: float | None = None
    high: float | None = None
    detail: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A metric's key in CSV and JSON, and its title for readers."""

    key: str
    title: str


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        method: Name of the method.
        regime: Labels that the method used, such as ``train=class, select=none``.
        config: Configuration that differs from other rows of the same method.
        settings: Training and evaluation settings that differ from other rows of the table.
        n: Number of runs.
        seeds: Their seeds, sorted.
        cells: Metrics by column key; a metric that no run has is absent.
        records: Ids of the runs, in the order of the seeds.
    """

    method: str
    regime: str
    config: str
    settings: str
    n: int
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    records: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Comparable rows, sorted by method, and what their reader must know (``notes``)."""

    dataset: str
    variant: str
    kind: Kind
    fingerprint: str
    backbone: str
    weights: str
    weights_hash: str
    selector: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def make_tables(records: Iterable[Record]) -> list[Table]:
    """Returns one table for each combination of things that must not be mixed, in a fixed order."""
    return [_make_table(members) for members in _grouped(records, _table_key)]


def _table_key(record: Record) -> tuple[str, ...]:
    dataset, backbone = record.dataset, record.backbone
    return (
        dataset.name,
        dataset.variant,
        dataset.kind,
        dataset.fingerprint,
        backbone.name,
        backbone.weights_hash,
        record.selector,
    )


def _row_key(record: Record) -> tuple[str, ...]:
    parts = (record.method.regime, record.method.config, record.training, record.evaluation)
    return (record.method.name, *(json.dumps(part, sort_keys=True) for part in parts))


def _grouped(records: Iterable[Record], key: Callable[[Record], tuple[str, ...]]) -> list[list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return [groups[name] for name in sorted(groups)]


def _make_table(records: list[Record]) -> Table:
    first = records[0]
    columns = _columns(records)
    members = _grouped(records, _row_key)
    settings = _differing([_settings(runs[0]) for runs in members])
    rows = []
    for runs in members:
        same_method = [r[0].method.config for r in members if r[0].method.name == runs[0].method.name]
        config = _pick(runs[0].method.config, _differing(same_method))
        rows.append(_make_row(runs, columns, config, _pick(_settings(runs[0]), settings)))
    return Table(
        dataset=first.dataset.name,
        variant=first.dataset.variant,
        kind=first.dataset.kind,
        fingerprint=first.dataset.fingerprint,
        backbone=first.backbone.name,
        weights=first.backbone.weights,
        weights_hash=first.backbone.weights_hash,
        selector=first.selector,
        columns=columns,
        rows=tuple(rows),
        notes=tuple(_notes(records, rows)),
    )


def _make_row(runs: list[Record], columns: Sequence[Column], config: str, settings: str) -> Row:
    runs = sorted(runs, key=lambda run: run.seed)
    cells = {column.key: _cell(runs, column.key) for column in columns}
    return Row(
        method=runs[0].method.name,
        regime=_describe(runs[0].method.regime),
        config=config,
        settings=settings,
        n=len(runs),
        seeds=tuple(run.seed for run in runs),
        cells={key: cell for key, cell in cells.items() if cell is not None},
        records=tuple(run.id for run in runs),
    )


def _columns(records: list[Record]) -> tuple[Column, ...]:
    attributions = {name for record in records for name in _test_epg(record)}
    conditions = {split for record in records for split in record.metrics if split.startswith(_CONDITION_PREFIX)}
    return (
        Column("accuracy", "Accuracy"),
        Column("accuracy_reweighted", "Reweighted"),
        Column("accuracy_group_mean", "Group mean"),
        Column("worst_group_accuracy", "WGA"),
        *(
            Column(f"epg_{name}", f"EPG {name.replace('_', ' ')}")
            for name in (*_ATTRIBUTIONS, *sorted(attributions - set(_ATTRIBUTIONS)))
        ),
        *(
            Column(f"{split}_accuracy", f"Accuracy ({split.removeprefix(_CONDITION_PREFIX).replace('_', ' ')})")
            for split in sorted(conditions)
        ),
    )


def _cell(runs: list[Record], key: str) -> Cell | None:
    scores = [score for run in runs if (score := _score(run, key)) is not None]
    if not scores:
        return None
    detail = _worst_groups(runs) if key == "worst_group_accuracy" else ()
    if len(scores) == 1:
        return Cell(scores[0].value, 1, low=scores[0].low, high=scores[0].high, detail=detail)
    values = [score.value for score in scores]
    return Cell(statistics.fmean(values), len(values), std=statistics.stdev(values), detail=detail)


def _score(record: Record, key: str) -> Interval | EpgScore | None:
    """Returns the metric behind a column's key, if the record has it."""
    for split, metrics in record.metrics.items():
        if split.startswith(_CONDITION_PREFIX) and key == f"{split}_accuracy":
            return metrics.accuracy
    test = record.metrics.get(_TEST)
    if test is None:
        return None
    if key.startswith("epg_"):
        return test.epg.get(key.removeprefix("epg_"))
    by_key = {
        "accuracy": test.accuracy,
        "accuracy_reweighted": test.accuracy_reweighted,
        "accuracy_group_mean": test.accuracy_group_mean,
        "worst_group_accuracy": test.worst_group_accuracy,
    }
    return by_key.get(key)


def _test_epg(record: Record) -> Mapping[str, EpgScore]:
    return record.metrics[_TEST].epg if _TEST in record.metrics else {}


def _worst_groups(runs: list[Record]) -> tuple[str, ...]:
    """Returns the groups that were worst in some run, most frequent first."""
    names = [run.metrics[_TEST].worst_group for run in runs if _TEST in run.metrics]
    return tuple(name for name, _ in Counter(name for name in names if name).most_common())


def _settings(record: Record) -> dict[str, Any]:
    return {**record.training, "evaluation": record.evaluation}


def _differing(mappings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Returns the dotted keys whose values are not equal in all of the mappings."""
    flat = [_flattened(mapping) for mapping in mappings]
    keys = set(chain.from_iterable(flat))
    return {key for key in keys if len({json.dumps(f.get(key), sort_keys=True) for f in flat}) > 1}


def _pick(mapping: Mapping[str, Any], keys: set[str]) -> str:
    return _describe({key: value for key, value in _flattened(mapping).items() if key in keys})


def _shared_training(records: list[Record]) -> str:
    flat = [_flattened(record.training) for record in records]
    keys = set(chain.from_iterable(flat)) - _differing(flat)
    return _pick(flat[0], keys)


def _flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _describe(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_word(value)}" for key, value in mapping.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _notes(records: list[Record], rows: list[Row]) -> list[str]:
    """Returns what a reader must know to not misread the table."""
    notes = [_NOTE_OF_KIND[records[0].dataset.kind]]
    if any(row.n > 1 for row in rows):
        notes.append("± is the sample standard deviation over n seeds.")
    if any(row.n == 1 for row in rows):
        notes.append("[low, high] is the 95 % interval of a single run.")
    if len({row.regime for row in rows}) > 1:
        notes.append("Rows differ in the labels they used (Regime): compare only rows of the same regime.")
    if any(_groups_are_classes(record) for record in records):
        notes.append("Groups are the classes: WGA is the accuracy of the worst class (for birds, the worst species).")
    if empty := sorted({name for r in records if _TEST in r.metrics for name in r.metrics[_TEST].empty_groups}):
        notes.append(f"Groups without test samples, not counted: {', '.join(empty)}.")
    if any(run.selectors[run.selector].oracle for run in records if run.selector in run.selectors):
        notes.append("The selector read the test set: an upper bound, not a result.")
    if dirty := sum(bool(record.code.dirty) for record in records):
        notes.append(f"{dirty} of {len(records)} runs came from code with uncommitted changes.")
    if len({record.code.revision for record in records}) > 1:
        notes.append("The runs came from more than one code revision.")
    if shared := _shared_training(records):
        notes.append(f"Training of all rows: {shared}.")
    return [note for note in notes if note]


_NOTE_OF_KIND: dict[Kind, str] = {
    "official": "",
    "partial": "Partial set: part of the official images, not comparable with published numbers.",
    "mini": "Synthetic mini set: shows that the code runs, not how good a method is.",
}


def _groups_are_classes(record: Record) -> bool:
    groups = record.evaluation.get("groups") or []
    return len(groups) > 0 and len(groups) == record.evaluation.get("num_classes")
