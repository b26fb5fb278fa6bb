import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from aimbench.errors import DataError
from aimbench.metrics.groups import headline, split_metrics
from aimbench.metrics.statistics import worst_group_interval

NAMES = ["land/land", "land/water", "water/land", "water/water"]

# Ten images on paper. Group = 2 * label + place, as in Waterbirds; group 2 has no sample.
#   group 0: 5 samples, 4 right; group 1: 2 samples, 1 right; group 3: 3 samples, 3 right.
LABEL = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
GROUP = np.array([0, 0, 0, 0, 0, 1, 1, 3, 3, 3])
PREDICTION = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])


def ten(train_group_counts=(60, 10, 5, 25), **kwargs):
    return split_metrics(LABEL, PREDICTION, GROUP, 2, NAMES, train_group_counts, **kwargs)


def test_ten_images_on_paper():
    metrics = ten()
    assert metrics.n == 10
    assert metrics.accuracy.value == pytest.approx(8 / 10)
    # Group 2 is absent: the shares 60, 10, 25 are renormalised by 95.
    assert metrics.accuracy_reweighted.value == pytest.approx((60 * 0.8 + 10 * 0.5 + 25 * 1.0) / 95)
    assert metrics.accuracy_group_mean.value == pytest.approx((0.8 + 0.5 + 1.0) / 3)
    assert metrics.accuracy_class_balanced == pytest.approx((5 / 7 + 1.0) / 2)
    assert metrics.worst_group_accuracy.value == pytest.approx(0.5)
    assert metrics.worst_group == "land/water"
    assert metrics.empty_groups == ["water/land"]
    assert {name: (g.correct, g.n) for name, g in metrics.groups.items()} == {
        "land/land": (4, 5),
        "land/water": (1, 2),
        "water/water": (3, 3),
    }


def test_raw_and_group_intervals_are_wilson():
    metrics = ten()
    for interval, correct, n in [(metrics.accuracy, 8, 10), (metrics.groups["water/water"].accuracy, 3, 3)]:
        expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_every_interval_holds_its_value():
    metrics = ten()
    for interval in (
        metrics.accuracy,
        metrics.accuracy_reweighted,
        metrics.accuracy_group_mean,
        metrics.worst_group_accuracy,
        *(group.accuracy for group in metrics.groups.values()),
    ):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_groups_without_training_samples_weigh_nothing():
    # waterbirds@100: the two minority groups are empty in training.
    metrics = ten(train_group_counts=(75, 0, 0, 25))
    assert metrics.accuracy_reweighted.value == pytest.approx(0.75 * 0.8 + 0.25 * 1.0)


def test_reweighted_is_none_where_no_group_of_the_split_was_trained_on():
    assert ten(train_group_counts=(0, 0, 100, 0)).accuracy_reweighted is None
    assert ten(train_group_counts=None).accuracy_reweighted is None


def test_reweighting_by_the_split_itself_is_raw_accuracy():
    assert ten(train_group_counts=(5, 2, 0, 3)).accuracy_reweighted.value == pytest.approx(0.8)


def test_the_worst_group_of_a_tie_is_declared_first():
    metrics = split_metrics(LABEL, 1 - LABEL, GROUP, 2, NAMES, None)
    assert metrics.worst_group == "land/land"
    assert metrics.worst_group_accuracy.value == 0.0
    assert metrics.worst_group_accuracy.high > 0.1


def test_without_groups_only_accuracies():
    metrics = split_metrics(LABEL, PREDICTION, None, 2, [], None)
    assert metrics.accuracy.value == pytest.approx(0.8)
    assert metrics.worst_group_accuracy is None
    assert metrics.accuracy_group_mean is None
    assert metrics.groups == {}


def test_the_seed_fixes_the_record():
    assert ten(seed=3) == ten(seed=3)


def test_the_worst_groups_interval_is_that_of_the_draws_and_the_seed_asked_for():
    group = np.repeat([0, 1], [50, 60])
    label = np.zeros(110, dtype=int)
    prediction = (np.arange(110) % 50 < 10).astype(int)  # of the groups 40 and 40 are right

    def interval(**kwargs):
        worst = split_metrics(label, prediction, group, 2, ["a", "b"], None, **kwargs).worst_group_accuracy
        return worst.low, worst.high

    assert interval() == worst_group_interval([40, 40], [50, 60], samples=1000, seed=0)
    few = worst_group_interval([40, 40], [50, 60], samples=50, seed=3)
    assert interval(bootstrap_samples=50, seed=3) == few != interval()


def test_random_predictions_agree_with_sklearn():
    rng = np.random.default_rng(0)
    label, group = rng.integers(0, 20, 3000), rng.integers(0, 7, 3000)
    prediction = np.where(rng.random(3000) < 0.6, label, rng.integers(0, 20, 3000))
    metrics = split_metrics(label, prediction, group, 20, [f"g{g}" for g in range(7)], None)
    by_group = [accuracy_score(label[group == g], prediction[group == g]) for g in range(7)]
    assert metrics.accuracy.value == pytest.approx(accuracy_score(label, prediction))
    assert metrics.accuracy_class_balanced == pytest.approx(balanced_accuracy_score(label, prediction))
    assert metrics.accuracy_group_mean.value == pytest.approx(np.mean(by_group))
    assert metrics.worst_group_accuracy.value == pytest.approx(min(by_group))
    assert metrics.worst_group == f"g{np.argmin(by_group)}"
    assert headline(label, prediction, group) == pytest.approx(
        {
            "accuracy": accuracy_score(label, prediction),
            "class_balanced_accuracy": balanced_accuracy_score(label, prediction),
            "worst_group_accuracy": min(by_group),
        }
    )


def test_headline_ignores_absent_classes_and_groups():
    scores = headline(np.array([4, 4]), np.array([4, 0]), np.array([9, 9]))
    assert scores == {"accuracy": 0.5, "class_balanced_accuracy": 0.5, "worst_group_accuracy": 0.5}


def test_headline_without_groups_has_no_worst_group():
    assert "worst_group_accuracy" not in headline(LABEL, PREDICTION, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": PREDICTION[:-1]}, "prediction has shape"),
        ({"prediction": np.where(np.arange(10) == 6, 2, PREDICTION)}, "prediction of sample 6 is 2"),
        ({"label": np.where(np.arange(10) == 1, -1, LABEL)}, "label of sample 1 is -1"),
        ({"group": np.where(np.arange(10) == 9, 4, GROUP)}, "group of sample 9 is 4"),
        ({"train_group_counts": [1, 2, 3]}, "3 counts for 4 groups"),
        ({name: np.array([], dtype=int) for name in ("label", "prediction", "group")}, "no samples"),
    ],
)
def test_bad_input_names_the_thing_and_the_place(change, message):
    arguments = {
        "label": LABEL,
        "prediction": PREDICTION,
        "group": GROUP,
        "num_classes": 2,
        "group_names": NAMES,
        "train_group_counts": None,
    }
    with pytest.raises(DataError, match=message):
        split_metrics(**{**arguments, **change})


def test_groups_statistics_and_selectors_need_no_torch():
    modules = ", ".join(f"aimbench.metrics.{name}" for name in ("groups", "statistics", "selectors"))
    code = f"import {modules}, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("groups", [4, 9, 20, 25])
def test_a_perfect_score_is_one_whatever_the_weights_round_to(groups: int) -> None:
    group = np.repeat(np.arange(groups), 3)
    label = group % 2
    counts = [680, 3561, 2037, 1077, *range(1, groups)][:groups]
    found = split_metrics(label, label, group, 2, [f"g{i}" for i in range(groups)], counts)
    assert found.accuracy_group_mean is not None
    assert found.accuracy_reweighted is not None
    assert (found.accuracy_group_mean.value, found.accuracy_reweighted.value) == pytest.approx((1.0, 1.0), abs=1e-12)
