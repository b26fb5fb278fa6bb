import math
import warnings

import numpy as np
import pytest
from scipy import stats

from aimbench.errors import DataError
from aimbench.metrics.paired_runs import holm, mean_difference, welch_p_value, worst_group_difference


def test_single_runs_have_the_interval_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.7
    ours = mean_difference(first[None], second[None], samples=4000)
    assert ours.value == pytest.approx(first.mean() - second.mean())
    half = 1.96 * (first.astype(float) - second).std() / 20
    assert (ours.low, ours.high) == pytest.approx((ours.value - half, ours.value + half), abs=0.006)


def test_worst_groups_of_single_runs_draw_as_resampling_by_index_within_groups_does():
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=300)
    first, second = rng.random(300) < 0.8, rng.random(300) < np.array([0.9, 0.5, 0.7])[group]
    ours = worst_group_difference(first[None], second[None], group, samples=3000)
    members = [np.flatnonzero(group == number) for number in range(3)]
    assert ours.value == pytest.approx(
        min(first[rows].mean() for rows in members) - min(second[rows].mean() for rows in members)
    )
    draws = []
    for _ in range(3000):
        drawn = [rng.choice(rows, size=len(rows)) for rows in members]
        draws.append(min(first[rows].mean() for rows in drawn) - min(second[rows].mean() for rows in drawn))
    assert (ours.low, ours.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.015)


def test_worst_groups_of_several_runs_by_hand():
    # First: run 0 has groups (1, 1/2), run 1 (1/2, 1): mean of the minima 1/2. Second: (1, 1).
    first = [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert worst_group_difference(first, [[1, 1, 1, 1]], [7, 7, 2, 2]).value == pytest.approx(-0.5)


def test_seeds_widen_the_interval():
    # The methods never differ on a sample within the noise of seeds: runs of the first are all right or all wrong.
    first, second = np.repeat([[1.0], [0.0], [1.0]], 1000, axis=1), np.repeat([[1.0], [0.0], [0.0]], 1000, axis=1)
    difference = mean_difference(first, second)
    assert difference.value == pytest.approx(1 / 3)
    assert difference.inside_noise
    assert difference.high - difference.low > 1


@pytest.mark.parametrize("difference", [mean_difference, lambda a, b: worst_group_difference(a, b, np.arange(500) % 2)])
def test_without_noise_of_samples_the_interval_is_welchs(difference):
    # Means 2/10 and 5/10, variances 1/100 and 4/100 of three runs each; every sample has its run's value.
    first, second = (np.repeat(np.array([values]).T / 10, 500, axis=1) for values in ([1, 2, 3], [3, 5, 7]))
    found = difference(first, second)
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
