"""Tables from records: one row a method and setting, aggregated over seeds.

Runs share a table only if they can be compared: same dataset variant, kind
(official, partial, uncounted or mini), fingerprint, backbone, weights and
selector. Within a table only rows of the same regime are ranked.
"""

import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from aimbench.errors import ConfigError, nearest_names
from aimbench.record import Kind, Record
from aimbench.results.describe import describe, differing, pick
from aimbench.results.digest import CONDITION_PREFIX, Digest, Score, digest
from aimbench.results.notes import OF_COST, differing_settings, notes
from aimbench.results.ranking import UNRANKED, Mark, marks
from aimbench.results.row_configs import row_configs

# Always shown, so that tables of different datasets read alike; other attributions follow.
_ATTRIBUTIONS = ("gradcam", "input_x_gradient", "mask", "uniform")

COST = "cost"
"""Names the columns of a `RowCost` where columns are chosen."""


@dataclass(frozen=True)
class Cell:
    """One metric of one row, as fractions in [0, 1] (EPG too).

    Attributes:
        value: Mean over the runs that have the metric.
        n: Number of those runs.
        low: Lower end of the 95 % interval: of the test samples and, for several runs, of the seeds too.
        high: Upper end of that interval.
        std: Sample standard deviation over the runs; None for a single run.
        detail: The worst groups, for worst-group accuracy; else empty.
        mark: ``best`` of its column and regime, or inside its ``noise``; else None.
    """

    value: float
    n: int
    low: float
    high: float
    std: float | None = None
    detail: tuple[str, ...] = ()
    mark: Mark | None = None


@dataclass(frozen=True)
class Column:
    """A metric's key in CSV and JSON, and its title for readers."""

    key: str
    title: str


@dataclass(frozen=True)
class RowCost:
    """What a run of a row takes.

    Attributes:
        trained: Number of parameters that were trained; None where nothing was trained here.
        gmacs: Multiply-accumulates of one image's forward pass, in 1e9; None where a record does not say.
        seconds: Median wall time of its runs, on their machines and under their load; None where nothing was trained.
    """

    trained: int | None
    gmacs: float | None
    seconds: float | None


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        method: Name of the method.
        regime: Labels that the method used, such as ``train=class, select=none``.
        config: Configuration that differs from other rows of the same method; see `row_configs`.
        settings: Training and evaluation settings that differ from other rows of the table.
        n: Number of runs.
        seeds: Their seeds, sorted.
        cells: Metrics by column key; a metric that no run has is absent.
        cost: What a run takes.
        records: Ids of the runs, in the order of the seeds.
    """

    method: str
    regime: str
    config: str
    settings: str
    n: int
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    cost: RowCost
    records: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Comparable rows, sorted by regime and method, and what their reader must know (``notes``)."""

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
    epg_region: str = "mask"
    groups_are_classes: bool = False
    shows_cost: bool = True

    @property
    def headline(self) -> str:
        """Key of worst-group accuracy, or of accuracy where each class is a group of its own."""
        return "accuracy" if self.groups_are_classes else "worst_group_accuracy"

    @property
    def id(self) -> str:
        """``table-<12 hex digits>``: a hash of what its runs share, so it stays when runs are added."""
        shared = [self.dataset, self.variant, self.kind, self.fingerprint, self.backbone]
        # Tables of the usual region keep the id that they had before there was another.
        region = [] if self.epg_region == "mask" else [self.epg_region]
        text = json.dumps([*shared, self.weights_hash, self.selector, *region])
        return f"table-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def make_tables(records: Iterable[Record | Digest]) -> list[Table]:
    """Returns one table for each combination of things that must not be mixed, in a fixed order."""
    digests = [digest(record) if isinstance(record, Record) else record for record in records]
    return [_make_table(runs) for runs in grouped(digests, lambda run: run.table_key)]


def rows_of(
    table: Table, keep: Callable[[Row], bool], runs: Sequence[Digest], words: str, *, at_defaults: bool = False
) -> Table | None:
    """Returns a table with some of its rows, notes on those alone and one that says so; None if no row is left.

    Marks, configurations and the id stay those of the whole table.

    Args:
        table: The table.
        keep: Says of a row whether it is kept.
        runs: Those that the table was made of, among others.
        words: The options that choose the rows, for the note.
        at_defaults: Each row has its method's defaults, so that none need say more than how it was evaluated.
    """
    rows = tuple(row for row in table.rows if keep(row))
    if not rows:
        return None
    if at_defaults:
        evaluated = {run.id: {"evaluation": run.settings["evaluation"]} for run in runs}
        unequal = differing([evaluated[row.records[0]] for row in rows])
        rows = tuple(replace(row, config="", settings=pick(evaluated[row.records[0]], unequal)) for row in rows)
    note = f"Rows of {words} alone; marks and configurations are those of the whole table."
    return replace(table, rows=rows, notes=(*_notes(runs, rows), note))


def with_columns(tables: Sequence[Table], keys: Sequence[str]) -> list[Table]:
    """Returns the tables that have some of these columns, with those alone; ``cost`` stands for what a run takes.

    Raises:
        ConfigError: If there is no column, or one that no table has.
    """
    if not keys:
        raise ConfigError("--columns: name one at least, such as accuracy")
    known = {column.key: column for table in tables for column in table.columns}
    for key in keys:
        if key not in known and key != COST:
            raise ConfigError(f"--columns: no table has '{key}'; {nearest_names(key, [*known, COST])}")
    chosen = []
    for table in tables:
        own = {column.key for column in table.columns}
        if own & set(keys) or COST in keys:
            columns = tuple(known[key] for key in keys if key in own)
            notes = tuple(note for note in table.notes if note != OF_COST or COST in keys)
            chosen.append(replace(table, columns=columns, notes=notes, shows_cost=COST in keys))
    return chosen


def grouped(runs: Iterable[Digest], key: Callable[[Digest], tuple[str, ...]]) -> list[list[Digest]]:
    """Returns the runs with equal keys together, by key."""
    groups: dict[tuple[str, ...], list[Digest]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return [groups[name] for name in sorted(groups)]


def make_cell(runs: Sequence[Digest], key: str) -> Cell | None:
    """Returns a metric over runs that differ in their seed alone; None if none of them has it."""
    scores = [run.scores[key] for run in runs if key in run.scores]
    if not scores:
        return None
    detail: tuple[str, ...] = ()
    if key == "worst_group_accuracy":
        names = Counter(run.worst_group for run in runs if run.worst_group is not None)
        detail = tuple(name for name, _ in names.most_common())
    if len(scores) == 1:
        return Cell(scores[0].value, 1, scores[0].low, scores[0].high, detail=detail)
    mean = statistics.fmean([score.value for score in scores])
    std = math.sqrt(math.fsum([(score.value - mean) ** 2 for score in scores]) / (len(scores) - 1))
    low, high = _interval_over_seeds(scores, mean, std)
    return Cell(mean, len(scores), low, high, std, detail)


def _interval_over_seeds(scores: Sequence[Score], mean: float, std: float) -> tuple[float, float]:
    """Returns the 95 % interval of a mean over seeds.

    The seeds share their test samples, so that part of the error does not shrink with their number; the other
    part is Student's interval of the mean over seeds. The two are independent and add in quadrature.
    """
    seeds = student(len(scores) - 1) * std / math.sqrt(len(scores))
    below = statistics.fmean([score.value - score.low for score in scores])
    above = statistics.fmean([score.high - score.value for score in scores])
    return max(0.0, mean - math.hypot(below, seeds)), min(1.0, mean + math.hypot(above, seeds))


@cache
def student(degrees: int) -> float:
    """Returns the 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def _make_table(runs: list[Digest]) -> Table:
    columns = _columns(runs)
    members = [_one_a_seed(group) for group in grouped(runs, lambda run: run.row_key)]
    settings = differing_settings([group[0] for group in members])
    configs = row_configs(members)
    rows = [
        _make_row(group, columns, config, pick(group[0].settings, settings))
        for group, config in zip(members, configs, strict=True)
    ]
    rows = _marked(sorted(rows, key=lambda row: row.regime), columns, {run.id: run for run in runs})
    first = runs[0]
    return Table(
        dataset=first.dataset,
        variant=first.variant,
        kind=first.kind,
        fingerprint=first.fingerprint,
        backbone=first.backbone,
        weights=first.weights,
        weights_hash=first.weights_hash,
        selector=first.selector,
        columns=columns,
        rows=tuple(rows),
        notes=_notes(runs, rows),
        epg_region=first.epg_region,
        groups_are_classes=any(run.groups_are_classes for run in runs),
    )


def _notes(runs: Sequence[Digest], rows: Sequence[Row]) -> tuple[str, ...]:
    """The lines beneath these rows; ``runs`` are those that they were made of, among others."""
    ids = {record for row in rows for record in row.records}
    shown = [run for run in runs if run.id in ids]
    places = {(run.table_key, run.row_key) for run in shown}
    return notes(
        shown,
        several_seeds=any(row.n > 1 for row in rows),
        single_runs=any(row.n == 1 for row in rows),
        marked=any(cell.mark for row in rows for cell in row.cells.values()),
        several_configs=any(row.config for row in rows),
        left_out=[run.id for run in runs if (run.table_key, run.row_key) in places and run.id not in ids],
    )


def _one_a_seed(runs: list[Digest]) -> list[Digest]:
    """The newest run of each seed: a source that a method states anew, or weights of another name, make two of one."""
    return list({run.seed: run for run in sorted(runs, key=lambda run: (run.created, run.id))}.values())


def _make_row(runs: list[Digest], columns: Sequence[Column], config: str, settings: str) -> Row:
    runs = sorted(runs, key=lambda run: run.seed)
    cells = {column.key: make_cell(runs, column.key) for column in columns}
    cost = RowCost(None, runs[0].gmacs, None)
    if runs[0].is_trained:
        cost = replace(cost, trained=runs[0].trained, seconds=statistics.median([run.seconds for run in runs]))
    return Row(
        method=runs[0].method,
        regime=describe(runs[0].regime),
        config=config,
        settings=settings,
        n=len(runs),
        seeds=tuple(run.seed for run in runs),
        cells={key: cell for key, cell in cells.items() if cell is not None},
        cost=cost,
        records=tuple(run.id for run in runs),
    )


def _marked(rows: Sequence[Row], columns: Sequence[Column], runs: Mapping[str, Digest]) -> list[Row]:
    """The rows with their marks; EPG is ranked among rows of the same test images."""
    cells: list[dict[str, Cell]] = [dict(row.cells) for row in rows]
    of_rows = [[runs[record] for record in row.records] for row in rows]
    looked_at = [str(of_row[0].settings["evaluation"].get("epg_samples")) for of_row in of_rows]
    # Such a mask's EPG is the object's share of the image, whatever the method learned.
    open_masks = [all(run.open_masks for run in of_row) for of_row in of_rows]
    for key in (column.key for column in columns if column.key not in UNRANKED):
        present = {
            number: cells[number][key]
            for number in range(len(rows))
            if key in cells[number] and not (key == "epg_mask" and open_masks[number])
        }
        apart = {
            number: rows[number].regime + (looked_at[number] if key.startswith("epg_") else "") for number in present
        }
        for number, mark in marks(present, apart).items():
            cells[number][key] = replace(present[number], mark=mark)
    return [replace(row, cells=marked) for row, marked in zip(rows, cells, strict=True)]


def _columns(runs: Sequence[Digest]) -> tuple[Column, ...]:
    keys = {key for run in runs for key in run.scores}
    attributions = {key.removeprefix("epg_") for key in keys if key.startswith("epg_")}
    conditions = {key.removesuffix("_accuracy") for key in keys if key.startswith(CONDITION_PREFIX)}
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
            Column(f"{split}_accuracy", f"Accuracy ({split.removeprefix(CONDITION_PREFIX).replace('_', ' ')})")
            for split in sorted(conditions)
        ),
    )
