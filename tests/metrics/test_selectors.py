import pytest

from aimbench.errors import ConfigError
from aimbench.metrics.selectors import SELECTORS, EpochScore, select, selector_scores


def epoch(number, accuracy, balanced, worst, test_worst):
    val = {"accuracy": accuracy, "class_balanced_accuracy": balanced, "worst_group_accuracy": worst}
    return EpochScore("train", number, val, {"worst_group_accuracy": test_worst})


# Each selector wants another epoch, and each best score occurs twice.
EPOCHS = [
    epoch(0, 0.90, 0.5, 0.1, 0.3),
    epoch(1, 0.90, 0.8, 0.2, 0.3),
    epoch(2, 0.70, 0.8, 0.6, 0.4),
    epoch(3, 0.60, 0.7, 0.6, 0.7),
    epoch(4, 0.50, 0.6, 0.5, 0.7),
]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("last", 4),
        ("val_accuracy", 0),
        ("val_class_balanced_accuracy", 1),
        ("val_worst_group_accuracy", 2),
        ("oracle_test_worst_group_accuracy", 3),
    ],
)
def test_each_selector_takes_the_earliest_best_epoch(name, chosen):
    assert select(name, EPOCHS) == chosen


def test_every_selector_is_named_after_its_key_and_declares_what_it_reads():
    assert all(name == selector.name for name, selector in SELECTORS.items())
    assert {name for name, selector in SELECTORS.items() if selector.uses_groups} == {
        "val_worst_group_accuracy",
        "oracle_test_worst_group_accuracy",
    }
    assert [name for name, selector in SELECTORS.items() if selector.oracle] == ["oracle_test_worst_group_accuracy"]


def test_no_selector_but_the_oracle_reads_the_test_split():
    blind = [EpochScore(e.phase, e.epoch, e.val) for e in EPOCHS]
    for name, selector in SELECTORS.items():
        assert selector.applies_to(blind) is not selector.oracle
        if not selector.oracle:
            assert select(name, blind) == select(name, EPOCHS)


def test_a_record_shows_every_selector_over_the_candidates_of_the_last_phase():
    best = {"accuracy": 1.0, "class_balanced_accuracy": 1.0, "worst_group_accuracy": 1.0}
    scores = selector_scores(
        [
            EpochScore("erm", 0, best, best),
            EpochScore("train", 0, best, best, is_candidate=False),
            *EPOCHS[1:4],
        ]
    )
    chosen = {name: (score.phase, score.epoch) for name, score in scores.items()}
    assert chosen == {
        "last": ("train", 3),
        "val_accuracy": ("train", 1),
        "val_class_balanced_accuracy": ("train", 1),
        "val_worst_group_accuracy": ("train", 2),
        "oracle_test_worst_group_accuracy": ("train", 3),
    }
    assert all(
        (score.val, score.test) == (EPOCHS[score.epoch].val, EPOCHS[score.epoch].test) for score in scores.values()
    )
    flags = {name: (score.uses_groups, score.oracle) for name, score in scores.items()}
    assert flags == {name: (selector.uses_groups, selector.oracle) for name, selector in SELECTORS.items()}


def test_unknown_selector_hints_at_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'val_accuracy'"):
        select("val_acc", EPOCHS)


def test_missing_score_names_selector_epoch_and_phase():
    epochs = [EPOCHS[0], EpochScore("retrain", 7, {"accuracy": 0.5})]
    assert not SELECTORS["val_worst_group_accuracy"].applies_to(epochs)
    with pytest.raises(ConfigError, match="epoch 7 of phase 'retrain' has no val 'worst_group_accuracy'"):
        select("val_worst_group_accuracy", epochs)


def test_no_epochs():
    assert not SELECTORS["last"].applies_to([])
    with pytest.raises(ConfigError, match="no epochs"):
        select("last", [])
