"""Mixup's samples, labels and expected loss against direct computations."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.mixup import Mixup, draw_weight, mixed, mixed_cross_entropy
from aimbench.train.api import Batch, Progress


def test_samples_are_mixed_with_their_partners() -> None:
    image = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2)
    batch = Batch(torch.arange(3), torch.tensor([0, 1, 0]), image=image)
    result = mixed(batch, torch.tensor([2, 0, 1]), 0.25).image[:, 0, 0, 0]
    assert result.tolist() == [0.25 * 0 + 0.75 * 2, 0.25 * 1 + 0.75 * 0, 0.25 * 2 + 0.75 * 1]


def test_features_are_mixed_where_the_batch_carries_them() -> None:
    feature = torch.randn(3, 4, 2, 2)
    batch = Batch(torch.arange(3), torch.tensor([0, 1, 0]), features=[torch.empty(0), feature])
    partner = torch.tensor([1, 2, 0])
    result = mixed(batch, partner, 0.6)
    assert result.features is not None
    assert result.features[0].numel() == 0
    torch.testing.assert_close(result.features[1], 0.6 * feature + 0.4 * feature[partner])


def test_the_loss_is_the_cross_entropy_against_the_mixed_one_hot_labels() -> None:
    torch.manual_seed(0)
    logits, label, partner = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 1, 0, 0, 2, 2])
    soft = 0.3 * F.one_hot(label, 4) + 0.7 * F.one_hot(partner, 4)
    torch.testing.assert_close(mixed_cross_entropy(logits, label, partner, 0.3), F.cross_entropy(logits, soft))


def test_a_step_mixes_labels_with_the_partners_that_samples_are_mixed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimbench.baselines.mixup.draw_weight", {0.8: 0.3}.__getitem__)
    torch.manual_seed(0)
    label, weight = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 3)
    seen: list[torch.Tensor] = []

    def model(batch: Batch) -> Any:
        assert batch.features is not None
        seen.append(batch.features[0])
        return SimpleNamespace(logits=batch.features[0] @ weight)

    # Rows of the unit matrix tell of which samples a mixture is made, and how much of each.
    batch = Batch(torch.arange(5), label, features=[torch.eye(5)])
    method = Mixup(Mixup.configure({"alpha": 0.8}))
    loss = method.loss(model, batch, Progress(0, 1, 0, 1))  # type: ignore[arg-type]
    (shares,) = seen
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(5))  # a permutation: everyone is partner once
    assert not torch.equal(shares, torch.eye(5))
    torch.testing.assert_close(loss, F.cross_entropy(shares @ weight, shares @ F.one_hot(label, 3).float()))
    for step in range(1, 4):
        method.loss(model, batch, Progress(0, 1, step, 4))  # type: ignore[arg-type]
    assert len({tuple(shares.flatten().tolist()) for shares in seen}) > 1  # partners are drawn anew in each step


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_weights_have_the_betas_mean_and_variance(alpha: float) -> None:
    torch.manual_seed(0)
    draws = np.array([draw_weight(alpha) for _ in range(4000)])
    torch.manual_seed(0)
    assert draw_weight(alpha) == draws[0]  # of the generator that checkpoints keep
    assert draws.mean() == pytest.approx(0.5, abs=0.03)
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_the_expected_loss_of_a_constant_predictor_is_the_mean_cross_entropy() -> None:
    """A predictor that ignores its input pays its plain cross-entropy, however samples are mixed."""
    torch.manual_seed(0)
    logits = torch.tensor([[0.5, -0.2, 0.1]]).expand(50, 3)
    label = torch.randint(0, 3, (50,))
    losses = []
    for _ in range(400):
        partner = torch.randperm(50)
        losses.append(mixed_cross_entropy(logits, label, label[partner], draw_weight(0.2)))
    torch.testing.assert_close(torch.stack(losses).mean(), F.cross_entropy(logits, label), rtol=1e-4, atol=1e-4)
