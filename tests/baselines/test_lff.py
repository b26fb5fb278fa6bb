"""LfF: the generalised cross-entropy's gradient, the running losses and the weights, by formula and by hand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.lff import LfF, generalised_cross_entropy, largest_by_class, running_mean
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.train.api import Batch, Progress, Standardize


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


def test_a_sample_without_hope_gives_no_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)  # the label's probability underflows to 0
    loss = generalised_cross_entropy(logits, torch.tensor([1]), 0.7)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1 / 0.7)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-20


def test_near_zero_it_is_the_cross_entropy() -> None:
    logits, label = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([1])
    torch.testing.assert_close(
        generalised_cross_entropy(logits, label, 1e-7), F.cross_entropy(logits, label, reduction="none")
    )


def test_running_means_and_largest_of_a_class_by_hand() -> None:
    old = torch.tensor([torch.nan, 2.0])
    assert running_mean(old, torch.tensor([5.0, 1.0]), 0.7).tolist() == pytest.approx([5.0, 1.7])
    values = torch.tensor([0.5, torch.nan, 2.0, 1.0])
    assert largest_by_class(values, torch.tensor([0, 0, 1, 1]), 3).tolist() == [0.5, 2.0, 0.0]


def test_difficulty_by_hand_over_two_batches() -> None:
    method = LfF(LfF.configure({"decay": 0.6}))
    run = SimpleNamespace(labels=np.array([0, 0, 1]), num_classes=2)
    next(method.phases(run))  # type: ignore[arg-type]
    first = Batch(torch.tensor([0, 1]), torch.tensor([0, 0]))
    weight = method._difficulty(first, torch.tensor([4.0, 1.0]), torch.tensor([2.0, 2.0]))
    # l_b = (4, 1) / 4 and l_d = (2, 2) / 2.
    assert weight.tolist() == pytest.approx([0.5, 0.25 / 1.25])
    again = Batch(torch.tensor([1]), torch.tensor([0]))
    weight = method._difficulty(again, torch.tensor([8.5]), torch.tensor([0.0]))
    # Running: l_b = 0.6 * 1 + 0.4 * 8.5 = 4 of at most 4; l_d = 1.2 of at most 2.
    assert weight.tolist() == pytest.approx([1.0 / (1.0 + 0.6)])


@pytest.mark.parametrize(("q", "scale_by_q", "scale"), [(0.7, True, 0.7), (0.4, False, 1.0)])
def test_the_loss_and_the_gradient_of_either_network_by_formula(q: float, scale_by_q: bool, scale: float) -> None:
    torch.manual_seed(0)
    method = LfF(LfF.configure({"q": q, "scale_by_q": scale_by_q}))
    label = torch.tensor([0, 1, 1])
    next(method.phases(SimpleNamespace(labels=label.numpy(), num_classes=2)))  # type: ignore[arg-type]
    debiased, biased = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)

    class Model:
        head = SimpleNamespace(biased_logits=lambda output, batch: biased)

        def __call__(self, batch: Batch) -> Any:
            return SimpleNamespace(logits=debiased)

    result: Any = method.loss(Model(), Batch(torch.arange(3), label), Progress(0, 1, 0, 1))  # type: ignore[arg-type]
    result["loss"].backward()

    errors, probabilities = {}, {}
    for name, logits in (("debiased", debiased), ("biased", biased)):
        p = np.exp(logits.detach().double().numpy())
        p /= p.sum(axis=1, keepdims=True)
        errors[name], probabilities[name] = p - np.eye(2)[label], p[np.arange(3), label]
    p_d, p_b = probabilities["debiased"], probabilities["biased"]
    l_d, l_b = -np.log(p_d), -np.log(p_b)
    l_d, l_b = (np.array([1.0, *(losses[1:] / losses[1:].max())]) for losses in (l_d, l_b))  # by class
    w = l_b / (l_b + l_d)
    assert result["loss"].item() == pytest.approx(scale * np.mean((1 - p_b**q) / q) + np.mean(-w * np.log(p_d)))
    assert debiased.grad is not None
    assert biased.grad is not None
    np.testing.assert_allclose(debiased.grad, w[:, None] * errors["debiased"] / 3, atol=1e-6)  # none through W
    np.testing.assert_allclose(biased.grad, scale * p_b[:, None] ** q * errors["biased"] / 3, atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_both_heads_standardise_the_features_of_a_frozen_backbone(frozen: bool) -> None:
    head: Any = LfF(LfF.configure({})).build(create_pyramid("test_resnet.r160_in1k"), 2, frozen=frozen)
    biased = head.biased if frozen else head.biased.head
    assert [isinstance(one.standardize, Standardize) for one in (head, biased)] == [frozen, frozen]


@pytest.mark.parametrize("train", ["head", "all"])
def test_the_biased_network_has_no_say_in_predictions(train: str, experiment: Callable[..., Any]) -> None:
    trainer = experiment("lff", training={"train": train}).trainer()
    before = trainer.predict("val").probability
    assert trainer.predict("val").heads == {}  # nor is it a further classifier of the method
    with torch.no_grad():
        for parameter in trainer.model.head.biased.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(trainer.predict("val").probability, before)


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
