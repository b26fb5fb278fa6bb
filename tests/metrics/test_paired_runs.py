import math
import warnings

import numpy as np
import pytest
from scipy import stats

from aimbench.errors import DataError
from aimbench.metrics.paired_runs import (
    holm,
    mean_difference,
    mean_difference_p_value,
    welch_p_value,
    worst_group_difference,
)
from aimbench.metrics.statistics import worst_group_interval


def test_single_runs_have_the_interval_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.7
    ours = mean_difference(first[None], second[None], samples=4000)
    assert ours.value == pytest.approx(first.mean() - second.mean())
    half = 1.96 * (first.astype(float) - second).std() / 20
    assert (ours.low, ours.high) == pytest.approx((ours.value - half, ours.value + half), abs=0.006)
    # Runs that all say the same add nothing to the noise of samples.
    alike = mean_difference(np.stack([first] * 3), np.stack([second] * 2), samples=4000)
    assert (alike.low, alike.high) == pytest.approx((ours.value - half, ours.value + half), abs=0.006)


def test_worst_groups_of_single_runs_put_their_two_intervals_together():
    rng = np.random.default_rng(0)
    group = np.repeat([5, 7, 9], 100)
    first, second = rng.random(300) < 0.8, rng.random(300) < np.repeat([0.9, 0.5, 0.7], 100)
    found = worst_group_difference(first[None], second[None], group)
    (a, a_low, a_high), (b, b_low, b_high) = (
        (hits.min() / 100, *worst_group_interval(hits, [100] * 3))
        for hits in (side.reshape(3, 100).sum(axis=1) for side in (first, second))
    )
    assert found.value == pytest.approx(a - b)
    assert found.low == pytest.approx(a - b - math.hypot(a - a_low, b_high - b))
    assert found.high == pytest.approx(a - b + math.hypot(a_high - a, b - b_low))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Four equally bad groups have a lower least accuracy than one bad group of the same accuracy, by chance alone.
        (np.full(4, 0.8), np.array([0.97, 0.97, 0.8, 0.97])),
        (np.linspace(0.6, 0.97, 50), np.r_[0.6, np.full(49, 0.97)]),
    ],
)
def test_a_method_with_more_bad_groups_is_not_taken_to_be_worse(first, second):
    generator, covered = np.random.default_rng(0), 0
    group = np.repeat(np.arange(len(first)), 400 // len(first) + 20)
    for _ in range(60):
        one, other = ((generator.random(group.size) < side[group])[None] for side in (first, second))
        found = worst_group_difference(one, other, group, samples=200)
        covered += found.low <= 0 <= found.high
    assert covered / 60 >= 0.93  # draws of the difference cover 0.85 and 0.6


def test_worst_groups_that_have_nothing_right_are_not_known_to_be_equal():
    nothing = np.repeat([[0.0, 1.0]], 20, axis=1)
    group = np.arange(40) % 2
    found = worst_group_difference(nothing, nothing, group)
    assert found.low < 0 == found.value < found.high
    # Of several runs as of one: every limit lies on its side of the value.
    rng = np.random.default_rng(1)
    for runs in ((1, 1), (1, 3), (3, 3)):
        one, other = ((rng.random((n, 40)) < 0.2).astype(float) for n in runs)
        found = worst_group_difference(one, other, group)
        assert found.low < found.value < found.high


def test_worst_groups_of_several_runs_by_hand():
    # First: run 0 has groups (1, 1/2), run 1 (1/2, 1): mean of the minima 1/2. Second: (1, 1).
    first = [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert worst_group_difference(first, [[1, 1, 1, 1]], [7, 7, 2, 2]).value == pytest.approx(-0.5)


def test_worst_groups_of_several_runs_add_the_noise_of_seeds():
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1], 60)
    sides = [(rng.random((runs, 120)) < share).astype(float) for runs, share in ((3, 0.8), (2, 0.6))]
    found = worst_group_difference(*sides, group)
    means, below, above, of_seeds = [], [], [], []
    for side in sides:
        hits = side.reshape(len(side), 2, 60).sum(axis=2)
        worst = hits.min(axis=1) / 60
        low, high = np.mean([worst_group_interval(h, [60, 60]) for h in hits], axis=0)
        means.append(worst.mean())
        below.append(worst.mean() - low)
        above.append(high - worst.mean())
        of_seeds.append(worst.var(ddof=1) / len(side))
    value = means[0] - means[1]
    assert found.value == pytest.approx(value)
    for limit, distance in ((value - found.low, (below[0], above[1])), (found.high - value, (above[0], below[1]))):
        variance = (math.hypot(*distance) / stats.norm.ppf(0.975)) ** 2 + sum(of_seeds)
        degrees = variance**2 / (of_seeds[0] ** 2 / 2 + of_seeds[1] ** 2 / 1)
        assert limit == pytest.approx(stats.t.ppf(0.975, degrees) * math.sqrt(variance))


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_intervals_of_runs_cover_what_they_are_asked_to(confidence):
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.7
    single = mean_difference(first[None], second[None], samples=4000, confidence=confidence)
    half = stats.norm.ppf((1 + confidence) / 2) * (first.astype(float) - second).std() / 20
    assert (single.low, single.high) == pytest.approx((single.value - half, single.value + half), abs=0.01)
    group = np.arange(400) % 4
    worst = worst_group_difference(first[None], second[None], group, samples=300, seed=4, confidence=confidence)
    (a, a_low, a_high), (b, b_low, b_high) = (
        (hits.min() / 100, *worst_group_interval(hits, [100] * 4, samples=300, seed=4, confidence=confidence))
        for hits in (side.reshape(100, 4).sum(axis=0) for side in (first, second))
    )
    assert worst.low == pytest.approx(a - b - math.hypot(a - a_low, b_high - b))
    assert worst.high == pytest.approx(a - b + math.hypot(a_high - a, b - b_low))


def test_seeds_widen_the_interval():
    # The methods never differ on a sample within the noise of seeds: runs of the first are all right or all wrong.
    first, second = np.repeat([[1.0], [0.0], [1.0]], 1000, axis=1), np.repeat([[1.0], [0.0], [0.0]], 1000, axis=1)
    difference = mean_difference(first, second)
    assert difference.value == pytest.approx(1 / 3)
    assert difference.inside_noise
    assert difference.high - difference.low > 1


def test_without_noise_of_samples_the_interval_is_welchs():
    # Means 2/10 and 5/10, variances 1/100 and 4/100 of three runs each; every sample has its run's value.
    first, second = (np.repeat(np.array([values]).T / 10, 500, axis=1) for values in ([1, 2, 3], [3, 5, 7]))
    found = mean_difference(first, second)
    half = stats.t.ppf(0.975, 2 * 25 / 17) * math.sqrt(5 / 3) / 10
    assert found.value == pytest.approx(-0.3)
    assert (found.low, found.high) == pytest.approx((-0.3 - half, -0.3 + half))


def test_the_interval_of_few_runs_covers_what_it_says():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        one, other = (
            (generator.random((3, 200)) < 0.7 + generator.normal(0, 0.06, size=(3, 1))).astype(float) for _ in range(2)
        )
        found = mean_difference(one, other, samples=200)
        covered += found.low <= 0 <= found.high
    assert covered / 200 > 0.92  # resampling the three runs covers 0.87


def test_a_run_alone_varies_over_seeds_as_the_other_sides_do():
    # Three runs of variance 4/100, one run: 4/100 (1 + 1/3) with 2 degrees; every sample has its run's value.
    several, alone = (np.repeat(np.array([values]).T / 10, 500, axis=1) for values in ([3, 5, 7], [1]))
    for sides, value in (((several, alone), 0.4), ((alone, several), -0.4)):
        found = mean_difference(*sides)
        half = stats.t.ppf(0.975, 2) * math.sqrt(4 / 100 * 4 / 3)
        assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))


def test_p_value_over_samples_and_seeds_by_hand():
    # Four samples, differences 1, 0, 0, 0 in every run: variance 1/4 over four, no seeds, so that t is normal.
    first, second = np.repeat([[1.0, 1, 0, 0]], 3, axis=0), np.repeat([[0.0, 1, 0, 0]], 3, axis=0)
    assert mean_difference_p_value(first, second) == pytest.approx(2 * stats.norm.sf(0.25 / math.sqrt(0.25 / 4)))
    assert mean_difference_p_value(first, first) == 1.0
    assert mean_difference_p_value(np.ones((3, 4)), np.zeros((2, 4))) is None
    assert mean_difference_p_value([[0.1 + 0.2] * 4, [0.3] * 4], np.zeros((2, 4))) is None  # equal but for rounding
    # Samples that agree: three runs a side with means 2 and 5, variances 1 and 4.
    first, second = (np.repeat(np.array([values]).T / 10, 5, axis=1) for values in ([1, 2, 3], [3, 5, 7]))
    assert mean_difference_p_value(first, second) == pytest.approx(welch_p_value([1, 2, 3], [3, 5, 7]))


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1: 0.03, 0.06, then 0.04 raised to 0.06.
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).size == 0


def test_welch_by_hand():
    # Means 2 and 5, variances 1 and 4 of three runs: t = -3 / sqrt(5 / 3), Welch's degrees 25 / 17 * 2.
    t, degrees = -3 / math.sqrt(5 / 3), 2 * 25 / 17
    assert welch_p_value([1, 2, 3], [3, 5, 7]) == pytest.approx(2 * stats.t.cdf(t, degrees))
    assert welch_p_value([1], [3, 5]) is None
    with warnings.catch_warnings(action="error"):  # one side without variance: t = -3 / sqrt(4 / 3) of 2 degrees
        assert welch_p_value([2, 2, 2], [3, 5, 7]) == pytest.approx(2 * stats.t.cdf(-3 / math.sqrt(4 / 3), 2))
    assert welch_p_value([1, 1], [1, 1]) == 1.0
    # Runs that all came out the same say nothing of what another seed would give.
    assert welch_p_value([0.04, 0.04], [0.0, 0.0]) is None
    assert welch_p_value([0.1 + 0.2, 0.3], [0.0, 0.0]) is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([[1, 0]], [[1, 0, 1]], "matched by key"),
        ([1, 0], [1, 0], r"give \(runs, samples\)"),
        ([[1, math.nan]], [[1, 0]], "NaN"),
        ([[]], [[]], "matched by key"),
    ],
)
def test_bad_runs(first, second, message):
    with pytest.raises(DataError, match=message):
        mean_difference(first, second)


def test_a_group_for_each_sample():
    with pytest.raises(DataError, match="one for each"):
        worst_group_difference([[1, 0]], [[1, 0]], [0])
