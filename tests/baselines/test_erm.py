"""ERM's loss and head, which most baselines build on, by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimbench.baselines.erm import ERM
from aimbench.models.backbones import create_pyramid
from aimbench.train.api import Batch, LinearHead, Progress, Standardize


def test_the_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    batch = Batch(torch.arange(3), torch.tensor([0, 0, 1]))
    loss: Any = ERM(ERM.configure({})).loss(
        lambda _: SimpleNamespace(logits=logits),  # type: ignore[arg-type]
        batch,
        Progress(0, 1, 0, 1),
    )
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1)) + math.log(2)) / 3)


@pytest.mark.parametrize(
    ("standardize", "frozen", "standardizes"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_features_of_a_frozen_backbone_are_standardised_unless_the_user_says_otherwise(
    standardize: bool | None, frozen: bool, standardizes: bool
) -> None:
    method = ERM(ERM.configure({"standardize": standardize}))
    head = method.build(create_pyramid("test_resnet.r160_in1k"), 3, frozen=frozen)
    assert isinstance(head, LinearHead)
    assert isinstance(head.standardize, Standardize) is standardizes
