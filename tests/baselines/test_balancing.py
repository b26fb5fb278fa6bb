"""RWG, RWY, SUBG, SUBY: what is drawn, and how often."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.baselines.upweight import UpWeight
from aimbench.cards import load_card
from aimbench.data.loader import epoch_order
from aimbench.errors import ConfigError
from aimbench.train.api import Batch, Progress, balanced_subset, inverse_frequency

GROUPS = np.repeat([0, 1, 2, 3], [700, 40, 20, 240])  # Waterbirds' shares, roughly


def phase(trial: Any) -> Any:
    """The phase that a method yields, taken from the running engine."""
    taken = []
    trainer = trial.trainer()
    trainer._run_phase = lambda number, phase: taken.append(phase)
    with pytest.raises(ConfigError, match="does not exist"):  # nothing was trained, so nothing was selected
        trainer.fit()
    (only,) = taken
    return only


def test_inverse_frequency_draws_every_group_equally_often() -> None:
    weights = inverse_frequency(GROUPS)
    draws = np.concatenate([GROUPS[epoch_order(len(GROUPS), seed, weights=weights)] for seed in range(50)])
    shares = np.bincount(draws) / len(draws)
    # 50,000 draws: the standard error of a share of 1/4 is 0.002.
    np.testing.assert_allclose(shares, 0.25, atol=0.01)


def test_a_balanced_subset_has_the_rarest_groups_size_of_each_and_repeats_nothing() -> None:
    subset = balanced_subset(GROUPS, seed=3)
    assert np.bincount(GROUPS[subset]).tolist() == [20, 20, 20, 20]
    assert len(set(subset.tolist())) == 80
    assert (np.diff(subset) > 0).all()  # as they stand in the split
    assert np.array_equal(subset, balanced_subset(GROUPS, seed=3))
    assert not np.array_equal(subset, balanced_subset(GROUPS, seed=4))


@pytest.mark.parametrize(("method", "column"), [("rwg", "group"), ("rwy", "label")])
def test_weights_are_one_over_the_count(method: str, column: str, experiment: Callable[..., Any]) -> None:
    trial = experiment(method)
    values = getattr(trial.dataset.split("train"), column).tolist()
    expected = [1 / values.count(value) for value in values]
    np.testing.assert_allclose(phase(trial).weights, expected)


@pytest.mark.parametrize(("method", "column"), [("subg", "group"), ("suby", "label")])
def test_subsets_are_balanced(method: str, column: str, experiment: Callable[..., Any]) -> None:
    trial = experiment(method)
    values = getattr(trial.dataset.split("train"), column)
    counts = np.bincount(values)
    assert np.bincount(values[phase(trial).subset]).tolist() == [counts.min()] * len(counts)
    assert not np.array_equal(phase(experiment(method, seed=1)).subset, phase(trial).subset)  # each seed draws its own


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("subg", "groups 'landbird on water', 'waterbird on land' are without samples in train"),
        ("dfr_train", "groups 'landbird on water', 'waterbird on land' are without samples in train"),
        ("irm", "no place is seen with two classes in train"),
        ("lisa", "no place is seen with two classes in train"),
    ],
)
def test_on_waterbirds_100_a_method_that_is_undefined_says_so_before_anything_is_built(
    method: str, reason: str, experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    official = load_card("waterbirds").variants["100"].counts["train"].groups
    monkeypatch.setattr("aimbench.train.experiment.group_counts", lambda dataset, split: official)
    monkeypatch.setattr("aimbench.train.experiment.create_pyramid", lambda name: pytest.fail("built a backbone"))
    with pytest.raises(ConfigError, match=f"method '{method}' is undefined on this dataset: {reason}, but it needs"):
        experiment(method)


def test_upweight_is_the_cross_entropy_weighted_by_one_over_the_class_size() -> None:
    labels = np.array([0, 0, 0, 0, 2])  # nothing of class 1
    method = UpWeight(UpWeight.configure({}))
    next(method.phases(SimpleNamespace(labels=labels, num_classes=3)))  # type: ignore[arg-type]
    logits, label = torch.randn(3, 3), torch.tensor([0, 2, 2])
    batch = Batch(torch.arange(3), label)
    loss = method.loss(lambda _: SimpleNamespace(logits=logits), batch, Progress(0, 1, 0, 1))  # type: ignore[arg-type]
    weights = np.array([0.25, 1.0, 1.0])  # the rarest class weighs 1
    entropy = -logits.double().log_softmax(dim=1)[torch.arange(3), label].numpy()
    assert float(loss) == pytest.approx((weights * entropy).sum() / weights.sum(), rel=1e-5)  # type: ignore[arg-type]


def test_groups_that_are_classes_make_balancing_groups_balancing_classes(experiment: Callable[..., Any]) -> None:
    by_group, by_class = (phase(experiment(name, dataset="travelingbirds@mini")) for name in ("rwg", "rwy"))
    np.testing.assert_array_equal(by_group.weights, by_class.weights)
    by_group, by_class = (phase(experiment(name, dataset="travelingbirds@mini")) for name in ("subg", "suby"))
    np.testing.assert_array_equal(by_group.subset, by_class.subset)
