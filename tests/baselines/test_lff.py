"""LfF: the generalised cross-entropy's gradient, the running losses and the weights, by formula and by hand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.lff import LfF, generalised_cross_entropy, largest_by_class, running_mean
from aimbench.models.backbones import FeaturePyramid
from aimbench.train.api import Batch


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_the_gradient_is_that_of_the_cross_entropy_times_p_to_the_q(q: float) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    generalised_cross_entropy(one, label, q).sum().backward()
    F.cross_entropy(other, label, reduction="sum").backward()
    p = logits.softmax(dim=1)[torch.arange(5), label]
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, p[:, None] ** q * other.grad)


def test_near_zero_it_is_the_cross_entropy() -> None:
    logits, label = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([1])
    torch.testing.assert_close(
        generalised_cross_entropy(logits, label, 1e-7), F.cross_entropy(logits, label, reduction="none")
    )


def test_running_means_and_largest_of_a_class_by_hand() -> None:
    old = torch.tensor([torch.nan, 2.0])
    assert running_mean(old, torch.tensor([5.0, 1.0]), 0.7).tolist() == pytest.approx([5.0, 1.7])
    values = torch.tensor([0.5, torch.nan, 2.0, 1.0])
    assert largest_by_class(values, torch.tensor([0, 0, 1, 1])).tolist() == [0.5, 2.0]


def test_difficulty_by_hand_over_two_batches() -> None:
    method = LfF(LfF.configure({}))
    run = SimpleNamespace(labels=np.array([0, 0, 1]))
    next(method.phases(run))  # type: ignore[arg-type]
    first = Batch(torch.tensor([0, 1]), torch.tensor([0, 0]))
    weight = method._difficulty(first, torch.tensor([4.0, 1.0]), torch.tensor([2.0, 2.0]))
    # l_b = (4, 1) / 4 and l_d = (2, 2) / 2.
    assert weight.tolist() == pytest.approx([0.5, 0.25 / 1.25])
    again = Batch(torch.tensor([1]), torch.tensor([0]))
    weight = method._difficulty(again, torch.tensor([11.0]), torch.tensor([0.0]))
    # Running: l_b = 0.7 * 1 + 0.3 * 11 = 4 of at most 4; l_d = 1.4 of at most 2.
    assert weight.tolist() == pytest.approx([1.0 / (1.0 + 0.7)])


@pytest.mark.parametrize("train", ["head", "last", "all"])
def test_the_biased_network_has_a_backbone_of_its_own_unless_it_is_frozen(
    train: str, experiment: Callable[..., Any]
) -> None:
    trainer = experiment("lff", training={"train": train}).trainer()
    model = trainer.model
    own = [m for m in model.head.modules() if isinstance(m, FeaturePyramid)]
    assert len(own) == (train != "head")
    for pyramid in own:
        trained = {n for n, p in pyramid.named_parameters() if p.requires_grad}
        assert trained == {n for n, p in model.pyramid.named_parameters() if p.requires_grad}
        assert not {id(p) for p in pyramid.parameters()} & {id(p) for p in model.pyramid.parameters()}
