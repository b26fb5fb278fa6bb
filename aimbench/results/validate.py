"""Checks stored records against their files: a number that was edited by hand is caught.

Everything that follows from ``<id>.predictions.parquet`` is computed again: accuracies, groups, worst-group
accuracy, each EPG with its interval; from ``<id>.epochs.parquet`` what each selector reports. What the predictions
hold of test splits must stand in the record, so that nothing is left out either. Cost, ``search``, probes, the further
heads, mask health and whether masks or boxes were EPG's object are not checked: their inputs are not saved.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimbench.errors import AimbenchError, RecordError
from aimbench.record import ROUNDING_TIPS, EpgScore, Record, SplitMetrics
from aimbench.results.digest import TEST
from aimbench.results.store import Store, parquet_name

if TYPE_CHECKING:
    import pandas as pd

_RECOMPUTED = (
    "n",
    "accuracy",
    "accuracy_reweighted",
    "accuracy_group_mean",
    "accuracy_class_balanced",
    "worst_group_accuracy",
    "worst_group",
    "groups",
    "empty_groups",
)
# Sums in another order differ in the last bits; EPG columns may be stored as float32.
_TOLERANCE = 1e-6


def check_record(store: Store, path: Path) -> list[str]:
    """Returns what is wrong with one record, one line a problem; an empty list if nothing is.

    Args:
        store: The store that the record lies in.
        path: The record's JSON file.
    """
    try:
        record = store.read(path)
    except RecordError as error:
        return [str(error)]
    problems = list(_file_problems(record, path.parent))
    if record.selected and parquet_name(record.id, "epochs") not in record.files:
        problems.append(f"record {path}: lists no predictions of its epochs, so its selection can't be checked")
    predictions = path.parent / parquet_name(record.id, "predictions")
    if predictions.name not in record.files:
        problems.append(f"record {path}: lists no {predictions.name}, so its numbers can't be checked; run it again")
    elif not problems:
        problems += [f"record {path}: {problem}" for problem in _metric_problems(record, predictions)]
    return problems


def _file_problems(record: Record, folder: Path) -> Iterator[str]:
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            yield f"record {record.id}: {path} is missing; restore it or run it again"
        elif _sha256(path) != expected:
            yield f"record {record.id}: {path} changed after the run (sha256); restore it or run it again"


def _metric_problems(record: Record, predictions: Path) -> Iterator[str]:
    import pandas as pd

    try:
        table = pd.read_parquet(predictions)
    except (OSError, ValueError) as error:
        yield f"{predictions.name} is not readable ({error}); run it again"
        return
    missing = {"split", "label", "prediction"} - set(table.columns)
    if missing:
        yield f"{predictions.name} lacks the columns {', '.join(sorted(missing))}; run it again"
        return
    epochs = predictions.with_name(parquet_name(record.id, "epochs"))
    if epochs.name in record.files:
        yield from _selector_problems(record, epochs, table)
    tested = {str(split) for split in table["split"].unique() if str(split).startswith(TEST)}
    for split in sorted({TEST, *tested} - record.metrics.keys()):
        yield f"metrics.{split} is missing; run it again"
    yield from _headline_problems(record)
    for split, stored in record.metrics.items():
        rows = table[table["split"] == split]
        if rows.empty:
            yield f"{predictions.name} holds no predictions of split '{split}'; run it again"
            continue
        try:
            recomputed = _recompute(record, rows)
        except (AimbenchError, ValueError, IndexError) as error:
            yield f"metrics.{split} can't be computed again: {error}"
            continue
        for name in _RECOMPUTED:
            yield from _differences(f"metrics.{split}.{name}", _plain(stored, name), _plain(recomputed, name))
        columns = [str(name) for name in rows if str(name).startswith("epg_")]
        measured = {name.removeprefix("epg_") for name in columns if rows[name].notna().any()}
        for attribution in sorted(measured - stored.epg.keys()):
            yield f"metrics.{split}.epg.{attribution} is missing; run it again"
        for attribution, score in stored.epg.items():
            place = f"metrics.{split}.epg.{attribution}"
            groups = record.evaluation.get("groups") or []
            yield from _epg_problems(place, score, rows, f"epg_{attribution}", groups)


def _headline_problems(record: Record) -> Iterator[str]:
    """Compares what stands in a record twice."""
    chosen, test = record.selectors.get(record.selector), record.metrics.get(TEST)
    if chosen is not None and test is not None:
        # The epoch may have been predicted on another machine before a resume, where a near tie tips the other way.
        at_epoch = chosen.test.get("accuracy", math.nan)
        if not _near(at_epoch, test.accuracy.value):
            place = f"selectors.{record.selector}.test.accuracy"
            yield f"{place}: the record says {at_epoch}, its metrics {test.accuracy.value}"
    probed = record.probes.get("accuracy")
    if probed is not None and test is not None and probed.n == test.n and not _near(probed.value, test.accuracy.value):
        yield f"probes.accuracy: the record says {probed.value} of all test images, its metrics {test.accuracy.value}"
    for split, metrics in record.metrics.items():
        if not metrics.epg:
            continue
        if record.evaluation.get("epg_region") == "boxes" and metrics.epg_region != "boxes":
            yield f"metrics.{split}.epg_region is '{metrics.epg_region}', the evaluation's is 'boxes'"
        asked = record.evaluation.get("epg_samples")
        if asked is not None and metrics.epg_samples not in ("all", f"{asked} with seed 0"):
            yield f"metrics.{split}.epg_samples is '{metrics.epg_samples}', the evaluation took {asked}"


def _near(a: float, b: float) -> bool:
    """Whether two shares differ by no more than what rounding on two machines may tip."""
    return abs(a - b) <= ROUNDING_TIPS


def _recompute(record: Record, rows: "pd.DataFrame") -> SplitMetrics:
    from aimbench.metrics.groups import split_metrics

    groups = _evaluation(record, "groups")
    return split_metrics(
        rows["label"].to_numpy(),
        rows["prediction"].to_numpy(),
        rows["group"].to_numpy() if groups and "group" in rows else None,
        _evaluation(record, "num_classes"),
        groups,
        _evaluation(record, "train_group_counts"),
    )


def _epg_problems(place: str, score: EpgScore, rows: "pd.DataFrame", column: str, groups: list[str]) -> Iterator[str]:
    if column not in rows:
        yield f"{place}: the predictions hold no column '{column}'; run it again"
        return
    measured = rows[rows[column].notna()]
    values = measured[column].astype(float)
    # Samples with no positive energy count as 0, whether they are stored as 0 or as missing.
    if score.undefined > (empty := int((values == 0).sum()) + score.n - len(values)):
        yield f"{place}.undefined: the record says {score.undefined}, the predictions hold {empty} without energy"
    if len(values) not in (score.n, score.n - score.undefined):
        yield f"{place}.n: the record says {score.n}, the predictions hold {len(values)}"
    elif 0 < score.n == len(values):
        recomputed = _epg_summary(values, measured, groups)
        yield from _differences(place, score.model_dump(include=set(recomputed)), recomputed)
    elif score.n:
        yield from _differences(f"{place}.value", score.value, float(values.sum()) / score.n)


def _epg_summary(values: "pd.Series[float]", rows: "pd.DataFrame", groups: list[str]) -> dict[str, Any]:
    from aimbench.metrics.statistics import bootstrap_mean_interval

    right = rows["prediction"] == rows["label"]
    low, high = bootstrap_mean_interval(values.to_numpy(), seed=0)
    found: dict[str, Any] = {
        "value": float(values.mean()),
        "low": low,
        "high": high,
        "correct": float(values[right].mean()) if right.any() else None,
        "incorrect": float(values[~right].mean()) if not right.all() else None,
    }
    if groups and "group" in rows:
        of_group = values.groupby(rows["group"]).mean().to_dict()
        found["groups"] = {name: of_group[number] for number, name in enumerate(groups) if number in of_group}
    return found


def _selector_problems(record: Record, epochs: Path, predictions: "pd.DataFrame") -> Iterator[str]:
    """Chooses again by every selector from the predictions of all epochs, and compares what they report."""
    import pandas as pd

    from aimbench.metrics.selectors import selector_scores
    from aimbench.results.reselect import epoch_scores

    try:
        table = pd.read_parquet(epochs)
    except (OSError, ValueError) as error:
        yield f"{epochs.name} is not readable ({error}); run it again"
        return
    missing = {"phase", "epoch", "split", "index", "prediction", "candidate"} - set(table.columns)
    if missing:
        yield f"{epochs.name} lacks the columns {', '.join(sorted(missing))}; run it again"
        return
    chosen = record.selectors.get(record.selector)
    if chosen is not None and {"phase": chosen.phase, "epoch": chosen.epoch} != record.selected:
        yield f"selected: the record says {record.selected}, its selector chose {chosen.phase} {chosen.epoch}"
    try:
        found = selector_scores(epoch_scores(record, predictions, table))
    except RecordError as error:
        yield f"selectors: {error}"
        return
    for name in sorted(record.selectors.keys() | found.keys()):
        stored, recomputed = record.selectors.get(name), found.get(name)
        if stored is None or recomputed is None:
            yield f"selectors.{name}: {'missing' if stored is None else 'does not apply to these epochs'}"
            continue
        yield from _differences(f"selectors.{name}", stored.model_dump(), recomputed.model_dump())


def _differences(place: str, stored: Any, recomputed: Any) -> Iterator[str]:
    """Compares nested plain values; names each leaf that differs."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in sorted(stored.keys() | recomputed.keys()):
            yield from _differences(f"{place}.{key}", stored.get(key), recomputed.get(key))
    elif not _equal(stored, recomputed):
        yield f"{place}: the record says {stored}, its predictions give {recomputed}"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=_TOLERANCE)
    return bool(a == b)


def _plain(metrics: SplitMetrics, name: str) -> Any:
    return metrics.model_dump(include={name})[name]


def _evaluation(record: Record, name: str) -> Any:
    if name not in record.evaluation:
        raise RecordError(f"evaluation.{name} is missing; run it again")
    return record.evaluation[name]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
