"""Group DRO's weights and loss against a computation by hand."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.baselines.groupdro import GroupDRO, mean_by_group, update_weights
from aimbench.train.api import Batch, Progress
from aimbench.train.config import TrainConfig


def test_means_by_group_with_an_absent_group() -> None:
    means = mean_by_group(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [2.0, 0.0, 5.0]


def test_weights_after_two_steps_by_hand() -> None:
    weights = torch.tensor([0.5, 0.5])
    for losses in ([1.0, 2.0], [0.5, 0.0]):
        weights = update_weights(weights, torch.tensor(losses), 0.1)
    raised = [math.exp(0.1 * 1.5), math.exp(0.1 * 2.0)]  # normalising in between changes nothing
    np.testing.assert_allclose(weights, np.array(raised) / sum(raised), rtol=1e-6)


@pytest.mark.parametrize("adjustment", [0.0, 3.0])
def test_two_steps_of_the_loss_by_hand(adjustment: float) -> None:
    method = GroupDRO(GroupDRO.configure({"step_size": 0.5, "adjustment": adjustment}))
    groups = np.repeat([0, 1, 3], [9, 4, 1])  # group 2 is empty
    run = SimpleNamespace(groups=groups, num_groups=4, config=TrainConfig())
    (phase,) = method.phases(run)  # type: ignore[arg-type]
    np.testing.assert_allclose(phase.weights, np.repeat([1 / 9, 1 / 4, 1], [9, 4, 1]))

    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    batch = Batch(torch.arange(3), torch.tensor([0, 0, 1]), group=torch.tensor([0, 0, 1]))
    ce = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(2)]
    by_group = [(ce[0] + ce[1]) / 2, ce[2], None, 0.0]
    sizes = [9, 4, None, 1]
    q = [1 / 3, 1 / 3, 0.0, 1 / 3]
    for _ in range(2):
        result = method.loss(lambda batch: SimpleNamespace(logits=logits), batch, Progress(0, 1, 0, 1))  # type: ignore[arg-type]
        raised = [
            0.0 if loss is None else weight * math.exp(0.5 * (loss + adjustment / math.sqrt(size)))
            for weight, loss, size in zip(q, by_group, sizes, strict=True)
        ]
        q = [value / sum(raised) for value in raised]
        np.testing.assert_allclose(method.state["weights"], q, rtol=1e-5)
        expected = sum(weight * (loss or 0.0) for weight, loss in zip(q, by_group, strict=True))
        assert result["loss"].item() == pytest.approx(expected, rel=1e-5)
    # The weights themselves carry no gradient: d loss / d logit is q_g / n times that of the cross-entropy.
    result["loss"].backward()
    probability = 1 / (1 + math.exp(-2))
    assert logits.grad is not None
    assert logits.grad[0, 0].item() == pytest.approx(q[0] / 2 * (probability - 1), rel=1e-5)


def test_without_reweighting_samples_come_as_they_are() -> None:
    run = SimpleNamespace(groups=np.array([0, 0, 1]), num_groups=2, config=TrainConfig())
    (phase,) = GroupDRO(GroupDRO.configure({"reweight": False})).phases(run)  # type: ignore[arg-type]
    assert phase.weights is None


def test_the_weights_move_to_the_group_that_is_hard(experiment: Callable[..., Any]) -> None:
    trial = experiment("groupdro", settings={"step_size": 0.5, "reweight": False})
    trial.trainer().fit()
    weights = trial.method.state["weights"]
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-5)
    minority = weights[[1, 2]].sum()
    assert minority > weights[[0, 3]].sum()
