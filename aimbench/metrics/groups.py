"""Accuracy by group: raw, reweighted, group mean, class-balanced, worst group. Numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimbench.errors import DataError
from aimbench.metrics.statistics import weighted_accuracy_interval, wilson_interval, worst_group_interval
from aimbench.record import GroupScore, Interval, SplitMetrics

IntArray = NDArray[np.integer[Any]]
_Counts = NDArray[np.int64]


def headline(label: IntArray, prediction: IntArray, group: IntArray | None) -> dict[str, float]:
    """The few numbers that selectors choose by, cheap enough for every epoch.

    Args:
        label: (N,) true classes, N at least 1.
        prediction: (N,) predicted classes.
        group: (N,) group indices, or None where the dataset has no groups.

    Returns:
        ``accuracy``, ``class_balanced_accuracy`` (mean over the classes present)
        and, with groups, ``worst_group_accuracy`` (minimum over the groups
        present); all in [0, 1].

    Raises:
        DataError: If the arrays are empty, differ in length or hold negative labels or groups.
    """
    _check_samples(label, prediction, group)
    correct = label == prediction
    scores = {
        "accuracy": float(correct.mean()),
        "class_balanced_accuracy": _mean_over_present(*_count(label, correct)),
    }
    if group is not None:
        group_correct, n = _count(group, correct)
        present = n > 0
        scores["worst_group_accuracy"] = float((group_correct[present] / n[present]).min())
    return scores


def split_metrics(
    label: IntArray,
    prediction: IntArray,
    group: IntArray | None,
    num_classes: int,
    group_names: Sequence[str],
    train_group_counts: Sequence[int] | None,
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> SplitMetrics:
    """Every accuracy of a split, each with a 95 % interval.

    Raw and per-group accuracies have Wilson intervals. The reweighted accuracy
    and the group mean have the analytic interval of
    ``statistics.weighted_accuracy_interval`` (no bootstrap); worst-group accuracy
    has the stratified bootstrap of ``statistics.worst_group_interval``.

    Declared groups without a sample are listed in ``empty_groups`` and enter no
    number. The reweighted accuracy weighs each group by its share of the
    training set: groups without a training sample weigh 0, and where a group of
    the training set is absent from this split the remaining shares are
    renormalised to sum to 1. It is None if no group of the split was trained on.
    On a tie the worst group is the one declared first.

    Args:
        label: (N,) true classes in [0, num_classes).
        prediction: (N,) predicted classes in [0, num_classes).
        group: (N,) indices into ``group_names``, or None where the dataset has no
            groups: everything by group is then None or empty.
        num_classes: Number of classes of the dataset.
        group_names: (G,) names of the declared groups.
        train_group_counts: (G,) training samples a group, or None where unknown:
            the reweighted accuracy is then None.
        bootstrap_samples: Bootstrap samples of the worst-group interval.
        seed: Seed of the bootstrap.

    Returns:
        The metrics; fields of EPG and mask health are left at their defaults.

    Raises:
        DataError: If the arrays are empty, differ in length, or hold a class or
            group outside the declared ones.
    """
    _check_samples(label, prediction, group)
    _check_range("label", label, num_classes)
    _check_range("prediction", prediction, num_classes)
    correct = label == prediction
    by_group: dict[str, Any] = {}
    if group is not None:
        _check_range("group", group, len(group_names))
        counts = _count(group, correct, len(group_names))
        by_group = _by_group(*counts, group_names, train_group_counts, bootstrap_samples, seed)
    return SplitMetrics(
        n=len(label),
        accuracy=_wilson(int(correct.sum()), len(label)),
        accuracy_class_balanced=_mean_over_present(*_count(label, correct)),
        **by_group,
    )


def _by_group(
    correct: _Counts,
    n: _Counts,
    names: Sequence[str],
    train_counts: Sequence[int] | None,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """The fields of SplitMetrics that need groups, from counts (G,) of the declared groups."""
    present = [int(g) for g in np.flatnonzero(n)]
    worst = int(np.argmin(correct[present] / n[present]))
    return {
        "accuracy_reweighted": _reweighted(correct, n, train_counts),
        "accuracy_group_mean": _weighted(correct, n, (n > 0).astype(np.float64)),
        "worst_group_accuracy": _worst(correct[present], n[present], samples, seed),
        "worst_group": names[present[worst]],
        "groups": {names[g]: _group_score(int(correct[g]), int(n[g])) for g in present},
        "empty_groups": [name for name, count in zip(names, n, strict=True) if count == 0],
    }


def _count(index: IntArray, correct: NDArray[np.bool_], size: int = 0) -> tuple[_Counts, _Counts]:
    """Correct samples and all samples of each index, both of length ``size`` or more."""
    n = np.bincount(index, minlength=size)
    return np.bincount(index[correct], minlength=len(n)), n


def _mean_over_present(correct: _Counts, n: _Counts) -> float:
    present = n > 0
    return float((correct[present] / n[present]).mean())


def _group_score(correct: int, n: int) -> GroupScore:
    return GroupScore(n=n, correct=correct, accuracy=_wilson(correct, n))


def _wilson(correct: int, n: int) -> Interval:
    low, high = wilson_interval(correct, n)
    return Interval(value=correct / n, low=float(low), high=float(high))


def _worst(correct: _Counts, n: _Counts, samples: int, seed: int) -> Interval:
    low, high = worst_group_interval(correct, n, samples=samples, seed=seed)
    return Interval(value=float((correct / n).min()), low=low, high=high)


def _reweighted(correct: _Counts, n: _Counts, train_counts: Sequence[int] | None) -> Interval | None:
    if train_counts is None:
        return None
    if len(train_counts) != len(n):
        raise DataError(f"train_group_counts: {len(train_counts)} counts for {len(n)} groups; give one for each group")
    return _weighted(correct, n, np.asarray(train_counts, dtype=np.float64))


def _weighted(correct: _Counts, n: _Counts, weight: NDArray[np.float64]) -> Interval | None:
    """Weighted mean over the groups that have samples and weight; None if there are none."""
    used = (n > 0) & (weight > 0)
    if not used.any():
        return None
    correct, n, weight = correct[used], n[used], weight[used] / weight[used].sum()
    low, high = weighted_accuracy_interval(correct, n, weight)
    # Weights that sum to 1 but for rounding may take a perfect score over it.
    value, low, high = (min(float(share), 1.0) for share in (weight @ (correct / n), low, high))
    return Interval(value=value, low=low, high=high)


def _check_samples(label: IntArray, prediction: IntArray, group: IntArray | None) -> None:
    if len(label) == 0:
        raise DataError("metrics: the split has no samples; check the split's name and the dataset's card")
    for name, values in (("prediction", prediction), ("group", group)):
        if values is not None and values.shape != label.shape:
            raise DataError(f"metrics: {name} has shape {values.shape}, label {label.shape}; give one for each sample")
    for name, values in (("label", label), ("group", group)):
        if values is not None:
            _check_range(name, values, None)


def _check_range(name: str, values: IntArray, size: int | None) -> None:
    outside = values < 0 if size is None else (values < 0) | (values >= size)
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        allowed = "0 or more" if size is None else f"0 to {size - 1}"
        raise DataError(
            f"metrics: {name} of sample {place} is {values[place]}, allowed are {allowed}; "
            "check the dataset's card against the predictions"
        )
