"""IRM's penalty against autograd on a linear case, and by hand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.irm import IRM, count_places, irm_penalty
from aimbench.errors import ConfigError
from aimbench.train.api import Batch, Progress


def risk_gradient(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """dR/dw at w = 1 of the logistic risk R(w) = mean log(1 + exp(-w s x.weight)), worked out on paper."""
    margin = (2 * y - 1) * (x @ weight)
    return -(margin * torch.sigmoid(-margin)).mean()


def test_the_penalty_of_a_linear_classifier_is_the_product_of_the_halves_gradients() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randint(0, 2, (10,))
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([torch.zeros(10, dtype=torch.float64), x @ weight], dim=1)
    penalty = irm_penalty(logits, y)
    expected = risk_gradient(x[::2], y[::2], weight) * risk_gradient(x[1::2], y[1::2], weight)
    torch.testing.assert_close(penalty, expected)
    # The penalty itself must have the right gradient: the network learns through it.
    got, wanted = (torch.autograd.grad(value, weight)[0] for value in (penalty, expected))
    torch.testing.assert_close(got, wanted)


def test_equal_halves_give_the_square() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    label = torch.tensor([0, 0])
    scale = torch.ones((), requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits * scale, label), scale)
    assert irm_penalty(logits, label).item() == pytest.approx(gradient.item() ** 2)
    assert irm_penalty(logits[:1], label[:1]).item() == 0


@pytest.mark.parametrize(("step", "weight"), [(9, 1.0), (10, 100.0)])
def test_environments_are_places_and_the_penalty_comes_after_the_annealing(step: int, weight: float) -> None:
    torch.manual_seed(0)
    groups = np.array([0, 1, 2, 3, 3])
    run = SimpleNamespace(groups=groups, labels=groups // 2, num_groups=4, num_classes=2)
    run.config = SimpleNamespace(epochs=25)
    method = IRM(IRM.configure({}))
    phase = next(method.phases(run))  # type: ignore[arg-type]
    assert phase.candidates_from == 3  # the first epoch that has the penalty's weight from its first step
    logits, group = torch.randn(8, 2), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    batch = Batch(torch.arange(8), group // 2, group=group)
    result: Any = method.loss(lambda batch: SimpleNamespace(logits=logits), batch, Progress(0, 1, step, 100))  # type: ignore[arg-type]
    terms = []
    for members in ([0, 2, 4, 6], [1, 3, 5, 7]):  # land, water
        part, label = logits[members], batch.label[members]
        terms.append(F.cross_entropy(part, label) + weight * irm_penalty(part, label))
    torch.testing.assert_close(result["loss"], (terms[0] + terms[1]) / 2)


def test_places_are_counted_where_they_are_more_than_classes() -> None:
    groups = np.array([0, 1, 2, 3, 4, 5])
    run = SimpleNamespace(groups=groups, labels=np.array([0, 0, 0, 1, 1, 1]), num_groups=6, num_classes=2)
    assert count_places(run) == 3  # type: ignore[arg-type]


def test_groups_that_are_not_class_x_place_are_refused() -> None:
    run = SimpleNamespace(groups=np.array([0, 1, 2, 3]), labels=np.array([0, 1, 0, 1]), num_groups=4, num_classes=2)
    with pytest.raises(ConfigError, match="groups that are class x place"):
        count_places(run)  # type: ignore[arg-type]


def test_irm_is_undefined_where_groups_are_classes(experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="its groups are not class x place"):
        experiment("irm", dataset="travelingbirds@mini")
