"""What a method gains over ERM and over AIM's head without masks, and how much of the gap to the oracle it closes.

Gap closed = (method - ERM) / (oracle mask - ERM). The oracle pools the same backbone's features inside the
ground-truth mask: the ceiling of anything that masks features. Runs are paired by seed, and a row is compared
with the ERM and the oracle of its own training settings, or with the only ones where trials chose the rates of each.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from aimbench.results.digest import Digest
from aimbench.results.tables import Row, Table, student

BASELINE = "erm"
CONTROL = "topdown"
ORACLE = "oracle_mask"
_TUNED = ("lr", "backbone_lr", "weight_decay", "evaluation.epg_samples")
_METRICS = ("accuracy", "worst_group_accuracy", "epg_gradcam", "epg_input_x_gradient")


@dataclass(frozen=True)
class Difference:
    """One side minus the other over paired seeds, as fractions.

    Attributes:
        value: Mean over the seeds.
        n: Number of seeds that both have.
        low: Lower end of Student's 95 % interval over the seeds; None for a single seed.
        high: Upper end of that interval.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Evidence:
    """One row and metric of a table against ERM.

    Attributes:
        row: The row of the table.
        metric: The column's key.
        title: The column's title.
        difference: To ERM; None for ERM itself, and where ERM or a common seed is missing.
        over_control: Difference to ``topdown``, AIM's head with every mask open: what the masks bring beyond the
            layers. None for ERM and ``topdown``, and where ``topdown`` or a common seed is missing.
        gap_closed: Share of the way from ERM to the oracle mask; None where there is no oracle above ERM.
        gap_in_noise: Whether the seeds do not tell oracle and ERM apart, so that the share says little.
    """

    row: Row
    metric: str
    title: str
    difference: Difference | None
    over_control: Difference | None
    gap_closed: float | None
    gap_in_noise: bool = False


def make_evidence(table: Table, runs: Iterable[Digest]) -> list[Evidence]:
    """Returns every row of a table against ERM, metric by metric; empty if the table holds no ERM.

    Args:
        table: The table.
        runs: At least the runs that it was made from.
    """
    by_id = {run.id: run for run in runs}
    members = [(row, [by_id[name] for name in row.records]) for row in table.rows]
    if not any(row.method == BASELINE for row in table.rows):
        return []
    titles = {column.key: column.title for column in table.columns}
    found = []
    for metric in (key for key in _METRICS if key in titles):
        references = _References(members, metric)
        for row, of_row in sorted(members, key=lambda member: member[0].method != BASELINE):
            if metric not in row.cells:
                continue
            erm, control, oracle = (references.of(row, name) for name in (BASELINE, CONTROL, ORACLE))
            if of_row is erm:
                found.append(Evidence(row, metric, titles[metric], None, None, None))
                continue
            gap = paired_difference(oracle, erm, metric)
            found.append(
                Evidence(
                    row,
                    metric,
                    titles[metric],
                    difference=paired_difference(of_row, erm, metric),
                    over_control=None if of_row is control else paired_difference(of_row, control, metric),
                    gap_closed=_gap_closed(of_row, erm, oracle, metric),
                    gap_in_noise=gap is not None and (gap.low is None or gap.low <= 0),
                )
            )
    return found


def paired_difference(runs: Iterable[Digest], base: Iterable[Digest], metric: str) -> Difference | None:
    """Returns a metric of some runs minus that of others over the seeds that both have; None if there is none."""
    mine, others = _by_seed(runs, metric), _by_seed(base, metric)
    values = [mine[seed] - others[seed] for seed in sorted(mine.keys() & others.keys())]
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Difference(mean, 1)
    half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(mean, len(values), mean - half, mean + half)


class _References:
    """The runs that a metric's rows are held against, chosen once for all rows of the same settings.

    Of several of a method, those with most seeds, and of these the strongest by the metric's mean: a gain over a weak
    ERM is no evidence.
    """

    def __init__(self, members: Iterable[tuple[Row, list[Digest]]], metric: str) -> None:
        self._same: dict[tuple[str, str], list[Digest]] = {}
        self._alike: dict[tuple[str, str], list[Digest]] = {}
        for row, runs in members:
            # The inverse of the oracle, which pools outside the object, is no ceiling.
            if row.method in (BASELINE, CONTROL, ORACLE) and not runs[0].config.get("inverse"):
                for chosen, settings in ((self._same, row.settings), (self._alike, _untuned(row))):
                    earlier = chosen.get((row.method, settings), [])
                    chosen[row.method, settings] = max(earlier, runs, key=lambda of: (len(of), _mean(of, metric)))

    def of(self, row: Row, method: str) -> list[Digest]:
        """Returns the runs of a method that ``row`` is held against; none if it was not run.

        Those of the row's own settings or, where trials chose the rates of each method, those that differ in nothing
        else.
        """
        return self._same.get((method, row.settings)) or self._alike.get((method, _untuned(row)), [])


def _mean(runs: Iterable[Digest], metric: str) -> float:
    return statistics.fmean(_by_seed(runs, metric).values() or [-math.inf])


def _untuned(row: Row) -> str:
    """The settings of a row that trials do not choose for each method alone."""
    return ", ".join(setting for setting in row.settings.split(", ") if setting.split("=")[0] not in _TUNED)


def _by_seed(runs: Iterable[Digest], metric: str) -> dict[int, float]:
    return {run.seed: run.scores[metric].value for run in runs if metric in run.scores}


def _gap_closed(runs: Iterable[Digest], erm: Iterable[Digest], oracle: Iterable[Digest], metric: str) -> float | None:
    mine, base, ceiling = (_by_seed(group, metric) for group in (runs, erm, oracle))
    seeds = mine.keys() & base.keys() & ceiling.keys()
    gap = sum(ceiling[seed] - base[seed] for seed in seeds)
    return sum(mine[seed] - base[seed] for seed in seeds) / gap if gap > 0 else None
