"""Two methods on the same samples: by how much do they differ, and is it more than noise?

Each side is one record, or several that differ in their seed alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aimbench.errors import RecordError
from aimbench.metrics.paired_runs import (
    holm,
    mean_difference,
    mean_difference_p_value,
    welch_p_value,
    worst_group_difference,
)
from aimbench.metrics.statistics import McNemar, PairedDifference, mcnemar
from aimbench.record import Record, with_later
from aimbench.results.describe import differing, flattened
from aimbench.results.predictions import read_predictions
from aimbench.results.store import Store
from aimbench.train.registry import later_settings

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MetricComparison:
    """One metric under both sides, as fractions in [0, 1].

    Attributes:
        name: Of the metric.
        first: Mean over the first side's runs.
        second: Mean over the second side's runs.
        difference: First minus second with its interval over samples and, with several runs, seeds.
        seeds_p_value: Welch's test between the runs; None with fewer than two runs a side, or where each side's agree.
        n: Samples that enter.
    """

    name: str
    first: float
    second: float
    difference: PairedDifference
    seeds_p_value: float | None
    n: int


@dataclass(frozen=True)
class GroupComparison:
    """Accuracy of one group under both sides.

    Attributes:
        name: Of the group.
        n: Samples.
        first: Accuracy of the first side, mean over its runs.
        second: Accuracy of the second.
        p_value: Adjusted for the number of groups (Holm): of McNemar's exact test for single runs; for several, of the
            difference over samples and seeds, None where neither varies.
    """

    name: str
    n: int
    first: float
    second: float
    p_value: float | None


@dataclass(frozen=True)
class Comparison:
    """All that is known of the difference between two sides.

    Attributes:
        first: Records of the first side.
        second: Records of the second.
        split: Split that was compared.
        metrics: Accuracy, worst-group accuracy where there are groups, and each EPG that both have by the same region.
        test: McNemar's exact test over all samples for single runs; None for several, whose samples are not
            independent: what is particular to a run moves many of them together.
        groups: By group, the largest difference first; empty where groups are unknown.
        samples: Samples on which the sides differ, the largest difference first, with the columns ``label``,
            ``group``, ``first`` and ``second`` (share of the runs that were right) and ``difference``.
        differing: What differs in the definitions besides the seed, with the value of either side.
        epg_regions: What EPG counts as the object on either side (``mask``, ``boxes``); of two, it is not compared.
    """

    first: tuple[Record, ...]
    second: tuple[Record, ...]
    split: str
    metrics: tuple[MetricComparison, ...]
    test: McNemar | None
    groups: tuple[GroupComparison, ...]
    samples: "pd.DataFrame"
    differing: tuple[str, ...]
    epg_regions: tuple[str, ...]


def compare(store: Store, first: Sequence[Record], second: Sequence[Record], split: str = "test") -> Comparison:
    """Compares two sides on the samples of a split.

    Raises:
        RecordError: If a side's records differ in more than their seed, a record is on both sides, the sides are of
            different datasets, or their predictions are not of the same samples.
    """
    for side in (first, second):
        _check_side(side)
    if both := {record.id for record in first} & {record.id for record in second}:
        raise RecordError(f"record {min(both)} is on both sides; compare it with another")
    _check_same_dataset(first[0], second[0])
    tables = [[read_predictions(store, record, split) for record in side] for side in (first, second)]
    keys = tables[0][0].index
    ids = [record.id for record in (*first, *second)]
    for record_id, table in zip(ids, [*tables[0], *tables[1]], strict=True):
        _check_same_samples(ids[0], keys, record_id, table.index)
    one, other = ([table.loc[keys] for table in side] for side in tables)
    correct = [_stack([(t["prediction"] == t["label"]).to_numpy() for t in side]) for side in (one, other)]
    names = first[0].evaluation.get("groups") or []
    group = one[0]["group"].to_numpy() if names else None
    regions = {record.metrics[split].epg_region for record in (first[0], second[0]) if split in record.metrics}
    epg_regions = tuple(sorted(region for region in regions if region is not None))
    return Comparison(
        first=tuple(first),
        second=tuple(second),
        split=split,
        metrics=(*_accuracies(correct[0], correct[1], group), *(_epgs(one, other) if len(epg_regions) < 2 else ())),
        test=_mcnemar(correct[0], correct[1]),
        groups=() if group is None else _by_group(correct[0], correct[1], group, names),
        samples=_samples(one[0], correct[0], correct[1], names),
        differing=_differing(first[0], second[0]),
        epg_regions=epg_regions,
    )


def same_but_for_seed(store: Store, record: Record) -> list[Record]:
    """All records with the record's definition under any seed, by seed."""
    found = store.find(record.dataset.name, record.dataset.variant, record.method.name)
    wanted = _without_seed(record)
    return sorted((other for other in found if _without_seed(other) == wanted), key=lambda other: other.seed)


def _accuracies(one: Floats, other: Floats, group: Any) -> list[MetricComparison]:
    found = [_metric("accuracy", one, other)]
    if group is not None:
        values = [_worst_group_accuracy(side, group) for side in (one, other)]
        found.append(
            MetricComparison(
                "worst-group accuracy",
                float(values[0].mean()),
                float(values[1].mean()),
                worst_group_difference(one, other, group),
                welch_p_value(*values),
                one.shape[1],
            )
        )
    return found


def _epgs(one: "list[pd.DataFrame]", other: "list[pd.DataFrame]") -> list[MetricComparison]:
    """EPG over the samples that every run scored; the references are equal on both sides and left out."""
    columns = [
        name
        for name in one[0].columns
        if name.startswith("epg_")
        and name not in ("epg_uniform", "epg_centre_gaussian")
        and all(name in table.columns for table in (*one, *other))
    ]
    found = []
    for name in columns:
        sides = [_stack([table[name].to_numpy(np.float64) for table in side]) for side in (one, other)]
        known = np.isfinite(np.concatenate(sides)).all(axis=0)
        if known.any():
            found.append(
                _metric(f"EPG {name.removeprefix('epg_').replace('_', ' ')}", sides[0][:, known], sides[1][:, known])
            )
    return found


def _metric(name: str, one: Floats, other: Floats) -> MetricComparison:
    return MetricComparison(
        name,
        float(one.mean()),
        float(other.mean()),
        mean_difference(one, other),
        welch_p_value(one.mean(axis=1), other.mean(axis=1)),
        one.shape[1],
    )


def _by_group(one: Floats, other: Floats, group: Any, names: Sequence[str]) -> tuple[GroupComparison, ...]:
    present = [int(g) for g in np.unique(group)]
    p_values = [_p_value(one[:, group == g], other[:, group == g]) for g in present]
    adjusted = iter(holm([p for p in p_values if p is not None]).tolist())
    rows = [
        GroupComparison(
            names[g],
            int((group == g).sum()),
            float(one[:, group == g].mean()),
            float(other[:, group == g].mean()),
            None if p is None else next(adjusted),
        )
        for g, p in zip(present, p_values, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.first - row.second), row.name)))


def _p_value(one: Floats, other: Floats) -> float | None:
    if (test := _mcnemar(one, other)) is not None:
        return test.p_value
    return mean_difference_p_value(one, other)


def _mcnemar(one: Floats, other: Floats) -> McNemar | None:
    """Exact test over the samples that one run alone gets right; None for several runs a side."""
    return mcnemar(one[0], other[0]) if len(one) == len(other) == 1 else None


def _samples(table: "pd.DataFrame", one: Floats, other: Floats, names: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    first, second = one.mean(axis=0), other.mean(axis=0)
    group = [names[g] for g in table["group"]] if names else ""
    rows = pd.DataFrame(
        {"label": table["label"], "group": group, "first": first, "second": second, "difference": first - second},
        index=table.index,
    )
    rows = rows[rows["difference"] != 0].sort_index()
    return rows.reindex(rows["difference"].abs().sort_values(ascending=False, kind="stable").index)


def _worst_group_accuracy(correct: Floats, group: Any) -> Floats:
    by_group = [correct[:, group == g].mean(axis=1) for g in np.unique(group)]
    return np.asarray(np.stack(by_group).min(axis=0), dtype=np.float64)


def _stack(rows: Sequence[Any]) -> Floats:
    return np.stack(rows).astype(np.float64)


def _check_side(side: Sequence[Record]) -> None:
    if len({record.id for record in side}) < len(side):
        raise RecordError(f"record {side[0].id} is named more than once on one side; name each record once")
    for record in side[1:]:
        if _without_seed(record) != _without_seed(side[0]):
            parts = ", ".join(_differing(side[0], record))
            raise RecordError(
                f"records {side[0].id} and {record.id} of one side differ in more than their seed ({parts});"
                " a side holds one method's runs"
            )


def _check_same_dataset(one: Record, other: Record) -> None:
    if one.dataset != other.dataset:
        raise RecordError(
            f"record {one.id} is of {_dataset(one)}, record {other.id} of {_dataset(other)}: a paired comparison"
            " needs the same samples"
        )


def _check_same_samples(one: str, keys: "pd.Index[Any]", other: str, found: "pd.Index[Any]") -> None:
    missing, further = keys.difference(found), found.difference(keys)
    if len(missing) or len(further):
        key, has, lacks = (missing[0], one, other) if len(missing) else (further[0], other, one)
        raise RecordError(
            f"record {has} has a prediction of sample '{key}', record {lacks} has none; run them on the same samples"
        )


def _differing(one: Record, other: Record) -> tuple[str, ...]:
    """Settings with both values, such as ``training.lr 0.001 / 0.003``; of two methods their names alone."""
    a, b = flattened(_without_seed(one)), flattened(_without_seed(other))
    unequal = differing([a, b])
    keys = [key for key in {**a, **b} if key in unequal or (key in a) != (key in b)]
    if one.method.name != other.method.name:
        keys = ["method.name", *(key for key in keys if not key.startswith("method."))]
    return tuple(f"{key} {_value(a, key)} / {_value(b, key)}" for key in keys)


def _value(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "-"


def _without_seed(record: Record) -> dict[str, Any]:
    """The definition with the settings of the method that it leaves out, as the run had them."""
    found = record.definition.model_dump(mode="json", exclude={"seed"})
    found["method"]["config"] = with_later(record.method.config, later_settings(record.method.name))
    return found


def _dataset(record: Record) -> str:
    d = record.dataset
    return f"{d.name}@{d.variant} ({d.kind}, fingerprint {d.fingerprint[:12]})"
