"""Two methods on the same samples, each with one or several runs. Numpy only.

A difference between sets of runs has two sources of noise, the samples and the
seeds. The variance of the runs' means is added to that of the samples, and the
interval is Student's with Welch's degrees of freedom: resampling three runs
would cover four fifths where it says 95 %. Of one run against several, the one
is taken to vary over seeds as the several do. With one run a side the interval
is that of the samples alone and says nothing of other seeds.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from aimbench.errors import DataError
from aimbench.metrics.statistics import PairedDifference, worst_group_interval

Floats = NDArray[np.float64]

_EQUAL = 1e-9
"""Runs whose values differ by less have the same value, up to rounding."""


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
    difference = one.mean(axis=0) - other.mean(axis=0)
    value, size = float(difference.mean()), difference.size
    generator = np.random.default_rng(seed)
    drawn = [float(difference[generator.integers(size, size=size)].mean()) for _ in range(samples)]
    runs = one.mean(axis=1), other.mean(axis=1)
    if one.shape[0] == other.shape[0] == 1:
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        return PairedDifference(value, float(low), float(high))
    half = _half_width(float(np.var(drawn, ddof=1)), runs, confidence)
    return PairedDifference(value, value - half, value + half)


def mean_difference_p_value(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p-value of no difference between two mean scores, over samples and seeds.

    Args:
        first: (R1, N) score of each sample in each run of the first method.
        second: (R2, N) the same for the second, samples in the same order; more than one run on one side at least.

    Returns:
        In [0, 1]; None where nothing varies, so that there is no noise to judge the difference by.

    Raises:
        DataError: As ``mean_difference``.
    """
    one, other = _runs(first, second)
    difference = one.mean(axis=0) - other.mean(axis=0)
    of_samples = float(difference.var(ddof=1)) / difference.size if difference.size > 1 else 0.0
    variance, degrees = _noise(of_samples, (one.mean(axis=1), other.mean(axis=1)))
    value = abs(float(difference.mean()))
    if variance < _EQUAL**2:
        return 1.0 if value < _EQUAL else None
    return float(2 * stats.t.sf(value / math.sqrt(variance), degrees))


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

    The noise of samples is put together from the two sides' ``worst_group_interval``, by the distances of its limits
    from the value (the square-and-add of Zou and Donner 2008): draws of the difference itself would take a method with
    several equally bad groups to be worse than one with a single bad group, and would have no width where both worst
    groups have nothing right. It leaves out that both sides saw the same samples, so it is wide rather than narrow (in
    simulations it covered 0.98 where the draws covered 0.60 to 0.86).

    Args:
        first: (R1, N) whether each run of the first method got each sample right.
        second: (R2, N) the same for the second.
        group: (N,) group of each sample.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        First minus second; the limits lie on either side of it, at distances of their own.

    Raises:
        DataError: As ``mean_difference``, or if a group is missing for a sample.
    """
    one, other = _runs(first, second)
    groups = np.asarray(group)
    if groups.shape != (one.shape[1],):
        raise DataError(f"paired runs: group has shape {groups.shape}, {one.shape[1]} samples; give one for each")
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number)
    sides = []
    for side in (one, other):
        hits = np.stack([np.bincount(number, run, len(sizes)) for run in side])
        values = (hits / sizes).min(axis=1)
        limits = [worst_group_interval(h, sizes, samples=samples, seed=seed, confidence=confidence) for h in hits]
        # Runs saw the same samples: the noise of their mean is the mean of theirs, not less.
        below, above = np.abs(np.asarray(limits).mean(axis=0) - values.mean())
        sides.append((values, float(below), float(above)))
    (a, a_below, a_above), (b, b_below, b_above) = sides
    normal = float(stats.norm.ppf((1 + confidence) / 2))
    down, up = (
        _half_width((math.hypot(*distances) / normal) ** 2, (a, b), confidence)
        for distances in ((a_below, b_above), (a_above, b_below))
    )
    value = float(a.mean() - b.mean())
    return PairedDifference(value, value - down, value + up)


def welch_p_value(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p-value of Welch's test between the runs' values.

    Args:
        first: (R1,) value of each run of the first method.
        second: (R2,) the same for the second.

    Returns:
        In [0, 1]; None with fewer than two runs a side, and where the runs of each side agree, so that there is no
        noise to judge the difference by.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(one.size, other.size) < 2:
        return None
    if max(np.ptp(one), np.ptp(other)) < _EQUAL:
        return 1.0 if abs(one[0] - other[0]) < _EQUAL else None
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


def _half_width(of_samples: float, runs: tuple[Floats, Floats], confidence: float) -> float:
    """Half of Student's interval of the difference of two means over runs."""
    variance, degrees = _noise(of_samples, runs)
    return float(stats.t.ppf((1 + confidence) / 2, degrees)) * math.sqrt(variance)


def _noise(of_samples: float, runs: tuple[Floats, Floats]) -> tuple[float, float]:
    """Variance of the difference of two means over runs, and its degrees of freedom.

    Args:
        of_samples: Variance over samples, which is taken as known.
        runs: (R,) value of each run of either side.
    """
    several = [side for side in runs if side.size > 1]
    single = len(several) == 1
    # One run alone varies as a run of the other side does.
    of_seeds = [float(side.var(ddof=1)) * (1 / side.size + single) for side in several]
    variance = of_samples + sum(of_seeds)
    spread = sum(v**2 / (side.size - 1) for v, side in zip(of_seeds, several, strict=True))
    return variance, variance**2 / spread if spread > 0 else math.inf
