"""Two methods on the same samples, each with one or several runs. Numpy only.

A difference between sets of runs has two sources of noise, the samples and the
seeds: both are drawn anew in every bootstrap sample. With one run a side only
the samples are drawn, and the interval says nothing of other seeds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from aimbench.errors import DataError
from aimbench.metrics.statistics import PairedDifference

Floats = NDArray[np.float64]


def mean_difference(
    first: ArrayLike, second: ArrayLike, *, samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> PairedDifference:
    """Difference of two mean scores, over samples and runs.

    Args:
        first: (R1, N) score of each sample in each run of the first method.
        second: (R2, N) the same for the second, samples in the same order.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        First minus second, with the percentile interval.

    Raises:
        DataError: If there is no run or no sample, the samples differ in number, or a score is not finite.
    """
    one, other = _runs(first, second)
    size = one.shape[1]

    def draw(generator: np.random.Generator) -> float:
        weight = np.bincount(generator.integers(size, size=size), minlength=size) / size
        return _resampled_mean(one @ weight, generator) - _resampled_mean(other @ weight, generator)

    return _interval(float(one.mean() - other.mean()), draw, samples, seed, confidence)


def worst_group_difference(
    first: ArrayLike,
    second: ArrayLike,
    group: ArrayLike,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference:
    """Difference of two worst-group accuracies, each the mean over its method's runs.

    Samples are drawn within each group, the same ones for all runs; each run's
    worst group is found anew.

    Args:
        first: (R1, N) whether each run of the first method got each sample right.
        second: (R2, N) the same for the second.
        group: (N,) group of each sample.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        First minus second, with the percentile interval.

    Raises:
        DataError: As ``mean_difference``, or if a group is missing for a sample.
    """
    one, other = _runs(first, second)
    groups = np.asarray(group)
    if groups.shape != (one.shape[1],):
        raise DataError(f"paired runs: group has shape {groups.shape}, {one.shape[1]} samples; give one for each")
    order = np.argsort(groups, kind="stable")
    one, other = one[:, order], other[:, order]
    _, start, n = np.unique(groups[order], return_index=True, return_counts=True)
    first_of_sample, size_of_sample = np.repeat(start, n), np.repeat(n, n)

    def worst(correct: Floats) -> Floats:
        accuracy = np.add.reduceat(correct, start, axis=1) / n
        return np.asarray(accuracy.min(axis=1), dtype=np.float64)

    def draw(generator: np.random.Generator) -> float:
        chosen = first_of_sample + (generator.random(len(groups)) * size_of_sample).astype(np.int64)
        weight = np.bincount(chosen, minlength=len(groups))
        return _resampled_mean(worst(one * weight), generator) - _resampled_mean(worst(other * weight), generator)

    return _interval(float(worst(one).mean() - worst(other).mean()), draw, samples, seed, confidence)


def welch_p_value(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p-value of Welch's test between the runs' values; None with fewer than two runs a side.

    Args:
        first: (R1,) value of each run of the first method.
        second: (R2,) the same for the second.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(one.size, other.size) < 2:
        return None
    if one.std() == 0 and other.std() == 0:
        return 1.0 if one[0] == other[0] else 0.0
    # From the moments: given values, scipy warns of a side whose runs all came out the same.
    moments = [moment for side in (one, other) for moment in (side.mean(), side.std(ddof=1), side.size)]
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """P-values adjusted for their number (Holm 1979).

    Args:
        p_values: (M,) p-values.

    Returns:
        (M,) adjusted p-values in [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = (len(p) - np.arange(len(p))) * p[order]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p) else steps
    return adjusted


def _runs(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or not one.size or not other.size:
        raise DataError(
            f"paired runs: shapes {one.shape} and {other.shape}; give (runs, samples) over the same samples,"
            " matched by key"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise DataError("paired runs: a score is NaN or infinite; leave out undefined samples")
    return one, other


def _resampled_mean(values: Floats, generator: np.random.Generator) -> float:
    """Mean over runs drawn with replacement; one run is itself."""
    return float(values[generator.integers(len(values), size=len(values))].mean())


def _interval(
    value: float, draw: Callable[[np.random.Generator], Any], samples: int, seed: int, confidence: float
) -> PairedDifference:
    generator = np.random.default_rng(seed)
    drawn = [draw(generator) for _ in range(samples)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(value, float(low), float(high))
