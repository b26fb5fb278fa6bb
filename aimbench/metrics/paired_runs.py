"""Two methods on the same samples, each with one or several runs. Numpy only.

A difference between sets of runs has two sources of noise, the samples and the
seeds. The samples are drawn anew in every bootstrap sample; the variance of the
runs' means is added to the variance of the draws, and the interval is Student's
with Welch's degrees of freedom: resampling three runs would cover four fifths
where it says 95 %. With one run a side the interval is that of the draws alone
and says nothing of other seeds.
"""

import math
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
    """Difference of two mean scores, with an interval over samples and, with several runs, seeds.

    Args:
        first: (R1, N) score of each sample in each run of the first method.
        second: (R2, N) the same for the second, samples in the same order.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        First minus second, with the interval that the module's first lines describe.

    Raises:
        DataError: If there is no run or no sample, the samples differ in number, or a score is not finite.
    """
    one, other = _runs(first, second)
    size = one.shape[1]

    def draw(generator: np.random.Generator) -> float:
        weight = np.bincount(generator.integers(size, size=size), minlength=size) / size
        return float((one @ weight).mean() - (other @ weight).mean())

    return _interval((one.mean(axis=1), other.mean(axis=1)), draw, samples, seed, confidence)


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
        First minus second, with the interval that the module's first lines describe.

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
        return float(worst(one * weight).mean() - worst(other * weight).mean())

    return _interval((worst(one), worst(other)), draw, samples, seed, confidence)


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


def _interval(
    runs: tuple[Floats, Floats], draw: Callable[[np.random.Generator], Any], samples: int, seed: int, confidence: float
) -> PairedDifference:
    """Of the difference of two means over runs, given each run's value and draws of the difference over samples."""
    value = float(runs[0].mean() - runs[1].mean())
    generator = np.random.default_rng(seed)
    drawn = np.asarray([draw(generator) for _ in range(samples)])
    several = [side for side in runs if side.size > 1]
    if not several:
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        return PairedDifference(value, float(low), float(high))
    of_seeds = [float(side.var(ddof=1)) / side.size for side in several]
    variance = float(drawn.var(ddof=1)) + sum(of_seeds)
    spread = sum(v**2 / (side.size - 1) for v, side in zip(of_seeds, several, strict=True))
    # The variance over samples rests on a thousand draws, so that it takes no degrees of freedom.
    degrees = variance**2 / spread if spread > 0 else math.inf
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * math.sqrt(variance)
    return PairedDifference(value, value - half, value + half)
