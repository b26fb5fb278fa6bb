"""Intervals and paired tests: is a number, or the difference of two, more than noise?

Numpy and scipy only. Every interval covers 95 % unless told otherwise, and
every random draw comes from the ``seed`` given, so that a record made twice
is the same record.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from aimbench.errors import DataError

FloatArray = NDArray[np.float64]

# Numbers drawn at once by the bootstrap: bounds its memory to about 32 MB whatever the split's size.
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class McNemar:
    """Outcome of McNemar's test.

    Attributes:
        first_only: Samples that only the first method got right.
        second_only: Samples that only the second method got right.
        p_value: Two-sided exact p-value; 1.0 if the two never disagree.
    """

    first_only: int
    second_only: int
    p_value: float


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, with its interval."""

    value: float
    low: float
    high: float

    @property
    def inside_noise(self) -> bool:
        """True if the interval holds 0: the data do not tell the two apart."""
        return self.low <= 0.0 <= self.high


def wilson_interval(correct: ArrayLike, n: ArrayLike, *, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Wilson score interval of a proportion (Wilson 1927), element by element.

    Args:
        correct: Successes, of any shape.
        n: Trials, of the same shape; 0 trials give the interval (0, 1).
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper limits in [0, 1], of the shape of ``correct``.
    """
    successes = np.asarray(correct, dtype=np.float64)
    trials = np.maximum(np.asarray(n, dtype=np.float64), 1.0)
    z = _normal_quantile((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # Exactly 0 and 1 at the ends, where rounding would leave the value itself just outside.
    low = np.where(successes == 0, 0.0, centre - half)
    high = np.where(successes == np.asarray(n), 1.0, centre + half)  # also where n is 0
    return low, high


def weighted_accuracy_interval(
    correct: ArrayLike, n: ArrayLike, weight: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a weighted mean of group accuracies, from the groups' Wilson intervals.

    Each limit lies ``sqrt(sum(weight^2 * distance^2))`` from the value, where
    ``distance`` is that of the group's own limit from its accuracy (MOVER; Zou,
    Huang and Zhang 2009). Unlike the delta method and the stratified bootstrap
    it keeps its width when small groups are all right or all wrong, it stays
    within [0, 1], and with one group it is the Wilson interval.

    Args:
        correct: (G,) correct samples a group.
        n: (G,) samples a group, each at least 1.
        weight: (G,) non-negative weights; normalised to sum to 1.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper limit.
    """
    share = np.asarray(weight, dtype=np.float64)
    share = share / share.sum()
    accuracy = np.asarray(correct, dtype=np.float64) / np.asarray(n, dtype=np.float64)
    low, high = wilson_interval(correct, n, confidence=confidence)
    value = float(share @ accuracy)
    below = float(np.sqrt(np.sum((share * (accuracy - low)) ** 2)))
    above = float(np.sqrt(np.sum((share * (high - accuracy)) ** 2)))
    return max(0.0, value - below), min(1.0, value + above)


def worst_group_interval(
    correct: ArrayLike, n: ArrayLike, *, samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of worst-group accuracy: a stratified bootstrap, never tighter than the worst group's own.

    Samples are drawn anew within each group and the worst group found anew, so
    the interval knows that another group might have been the worst. The minimum
    of noisy accuracies lies below the true minimum; the basic bootstrap (the
    quantiles mirrored at the value) corrects for that, where the percentile
    bootstrap would repeat the error. A bootstrap alone has no width when the
    worst group has no correct sample and is far too narrow with many small
    groups, so the result is joined with the Wilson interval of the worst group.
    In simulations (400 draws each: 4 groups as in Waterbirds, apart and tied; 50
    and 200 groups of 29) it covered the true value in 93 to 100 % of the draws,
    the percentile bootstrap in 0 to 93 %. Where dozens of small groups are tied
    it falls short: 50 groups of 29, all at 0.85, in 82 %, all at 0.6, in 50 %.

    Args:
        correct: (G,) correct samples a group.
        n: (G,) samples a group, each at least 1.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper limit in [0, 1]; the value lies between them.
    """
    hits, trials = np.asarray(correct, dtype=np.int64), np.asarray(n, dtype=np.int64)
    accuracy = hits / trials
    worst = int(np.argmin(accuracy))
    # Drawing n samples with replacement from c correct of n is a binomial draw.
    drawn = np.random.default_rng(seed).binomial(trials, accuracy, size=(samples, len(trials))) / trials
    drawn_low, drawn_high = _central(drawn.min(axis=1), confidence)
    wilson_low, wilson_high = wilson_interval(hits[worst], trials[worst], confidence=confidence)
    low = min(2 * accuracy[worst] - drawn_high, float(wilson_low))
    high = max(2 * accuracy[worst] - drawn_low, float(wilson_high))
    return float(max(0.0, low)), float(min(1.0, high))


def bootstrap_mean_interval(
    values: ArrayLike, *, samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: (N,) finite values, N at least 1. One value gives an interval of no width.
        samples: Bootstrap samples.
        seed: Seed of the draws.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper limit.

    Raises:
        DataError: If there is no value, or one is NaN or infinite.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise DataError("bootstrap interval: no values; give at least one sample")
    if not np.isfinite(data).all():
        place = int(np.flatnonzero(~np.isfinite(data))[0])
        raise DataError(f"bootstrap interval: value {place} is {data[place]}; leave out undefined samples")
    generator = np.random.default_rng(seed)
    batch = max(1, _DRAWS_AT_ONCE // data.size)
    means = []
    for start in range(0, samples, batch):
        drawn = generator.integers(data.size, size=(min(batch, samples - start), data.size))
        means.append(data[drawn].mean(axis=1))
    return _central(np.concatenate(means), confidence)


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """Exact McNemar test (McNemar 1947): do two methods differ in accuracy on the same samples?

    Args:
        first_correct: (N,) whether the first method got each sample right.
        second_correct: (N,) the same for the second, in the same order.

    Returns:
        The disagreements and the two-sided p-value.

    Raises:
        DataError: If the two differ in length.
    """
    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    _check_paired(first, second)
    first_only = int(np.sum(first & ~second))
    second_only = int(np.sum(~first & second))
    disagreements = first_only + second_only
    p_value = float(stats.binomtest(first_only, disagreements, 0.5).pvalue) if disagreements else 1.0
    return McNemar(first_only, second_only, p_value)


@cache
def _normal_quantile(share: float) -> float:
    return float(stats.norm.ppf(share))


def _check_paired(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(
            f"paired samples: shapes {first.shape} and {second.shape} differ or are not (N,); "
            "match the two by sample key first"
        )


def _central(draws: FloatArray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
