"""LISA's pairs: who is mixed with whom."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.lisa import LISA, draw_partners, paired_order
from aimbench.errors import ConfigError
from aimbench.train.api import Batch, Progress

GROUPS = np.repeat([0, 1, 2, 3], [70, 5, 3, 22])
LABELS, PLACES = GROUPS // 2, GROUPS % 2


@pytest.mark.parametrize("intra_label", [True, False])
def test_partners_share_the_class_or_the_place_and_not_both(intra_label: bool) -> None:
    block = np.arange(100)
    partners = draw_partners(block, LABELS, PLACES, np.random.default_rng(0), intra_label=intra_label)
    same_label, same_place = LABELS[partners] == LABELS, PLACES[partners] == PLACES
    assert same_label.all() == intra_label
    assert same_place.all() == (not intra_label)
    assert (same_label != same_place).all()
    # Every candidate can be drawn: the 70 of group 0 meet all of the few that they can be mixed with.
    few = 1 if intra_label else 2
    assert set(partners[:70]) == set(np.flatnonzero(np.equal(GROUPS, few)))


def test_a_sample_without_a_partner_is_its_own() -> None:
    labels, places = np.array([0, 0, 1]), np.array([0, 0, 1])
    block = np.array([2, 0])
    partners = draw_partners(block, labels, places, np.random.default_rng(0), intra_label=True)
    assert partners.tolist() == [2, 0]


def test_an_epoch_sees_every_sample_once_with_the_strategies_drawn_step_by_step() -> None:
    order = paired_order(LABELS, PLACES, 8, 0.5, np.random.default_rng(1))
    assert len(order) == 200
    blocks = np.split(order, range(16, 200, 16))
    samples = np.concatenate([block[: len(block) // 2] for block in blocks])
    assert sorted(samples) == list(range(100))
    assert samples.tolist() != list(range(100))
    strategies = [
        bool((LABELS[block[: len(block) // 2]] == LABELS[block[len(block) // 2 :]]).all()) for block in blocks
    ]
    assert len(set(strategies)) == 2
    always = paired_order(LABELS, PLACES, 8, 1.0, np.random.default_rng(1))
    for block in np.split(always, range(16, 200, 16)):
        half = len(block) // 2
        assert (LABELS[block[:half]] == LABELS[block[half:]]).all()


@pytest.mark.parametrize("p_label", [0.0, 1.0])
def test_a_batch_of_the_phase_holds_its_samples_and_their_partners(p_label: float) -> None:
    label, place = np.repeat([0, 1], 30), np.tile([0, 1, 2], 20)  # three places, so that they are no classes
    run = SimpleNamespace(labels=label, groups=3 * label + place, num_groups=6, num_classes=2)
    run.config = SimpleNamespace(batch_size=10)
    (phase,) = LISA(LISA.configure({"p_label": p_label})).phases(run)  # type: ignore[arg-type]
    assert phase.settings == {"batch_size": 20}
    assert phase.order is not None
    order = phase.order(np.random.default_rng(0)).reshape(6, 2, 10)
    samples, partners = order[:, 0].ravel(), order[:, 1].ravel()
    assert sorted(samples) == list(range(60))
    shared, other = (label, place) if p_label else (place, label)
    np.testing.assert_array_equal(shared[samples], shared[partners])
    assert (other[samples] != other[partners]).all()


def test_a_last_pair_that_would_be_a_batch_of_one_is_left_out(experiment: Callable[..., Any]) -> None:
    assert len(paired_order(LABELS, PLACES, 9, 0.5, np.random.default_rng(1))) == 2 * 99
    assert len(paired_order(LABELS, PLACES, 1, 0.5, np.random.default_rng(1))) == 2 * 100
    size = len(experiment("lisa").dataset.split("train"))
    trial = experiment("lisa", training={"epochs": 1, "batch_size": size - 1})
    trial.trainer().fit()  # the head standardises over the batch, which fails on a batch of one


def test_the_loss_mixes_the_first_half_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimbench.baselines.lisa.draw_weight", {0.8: 0.3}.__getitem__)
    torch.manual_seed(0)
    feature, weight = torch.randn(4, 5), torch.randn(5, 2)
    batch = Batch(torch.arange(4), torch.tensor([0, 1, 1, 0]), features=[feature])
    method = LISA(LISA.configure({"alpha": 0.8}))
    loss = method.loss(
        lambda batch: SimpleNamespace(logits=batch.features[0] @ weight),  # type: ignore[arg-type]
        batch,
        Progress(0, 1, 0, 1),
    )
    mixed = 0.3 * feature[:2] + 0.7 * feature[2:]
    soft = torch.tensor([[0.3, 0.7], [0.7, 0.3]])
    torch.testing.assert_close(loss, F.cross_entropy(mixed @ weight, soft))


def test_lisa_is_undefined_where_groups_are_classes(experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="method 'lisa' is undefined on this dataset"):
        experiment("lisa", dataset="travelingbirds@mini")
