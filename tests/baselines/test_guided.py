"""GALS's and RRR's penalties against gradients written out, on a case where they can be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.gals import GALS, GALSConfig
from aimbench.baselines.rrr import RRR, RRRConfig
from aimbench.errors import ConfigError
from aimbench.train.api import Batch, Output, Progress

PROGRESS = Progress(0, 1, 0, 1)
K, C, SIZE, N = 3, 2, 4, 5


class Linear(torch.nn.Module):
    """Logits = W times the flattened input: the gradient of a loss at the input is (p - y) W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(K, channels * SIZE * SIZE))

    def forward(self, batch: Batch) -> Output:
        x = batch.image if batch.has_image else batch.features[-1]  # type: ignore[index]
        return Output(logits=x.flatten(1) @ self.weight.T)


@pytest.fixture
def case() -> tuple[Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = (torch.rand(N, 1, SIZE, SIZE) > 0.5).float()
    mask[0] = 0  # no ground truth: not guided
    return Linear(3), torch.randn(N, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 1, 0]), mask


def by_hand(model: Linear, x: torch.Tensor, label: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the mean cross-entropy and of the summed log probabilities at each input."""
    weight = model.weight.detach().numpy()
    p = (x.flatten(1) @ model.weight.T).softmax(dim=1).detach().numpy()
    entropy = (p - np.eye(K)[label]) @ weight / N
    log_probabilities = (1 - K * p) @ weight
    return entropy.reshape(x.shape), log_probabilities.reshape(x.shape)


def test_the_penalties_on_images(case: Any) -> None:
    model, image, label, mask = case
    outside = (1 - mask).numpy()
    outside[0] = 0
    entropy, log_probabilities = by_hand(model, image, label)
    batch = Batch(torch.arange(N), label, image=image, mask=mask)
    gals = GALS(GALSConfig(weight=100.0)).loss(model, batch, PROGRESS)
    rrr = RRR(RRRConfig(weight=3.0)).loss(model, batch, PROGRESS)
    assert gals["outside"].item() == pytest.approx(np.abs(entropy * outside)[1:].mean(), rel=1e-4)  # type: ignore[index]
    squared = ((log_probabilities * outside) ** 2).sum(axis=(1, 2, 3)).mean()
    assert rrr["outside"].item() == pytest.approx(squared, rel=1e-4)  # type: ignore[index]
    plain = F.cross_entropy(image.flatten(1) @ model.weight.T, label).item()
    assert gals["loss"].item() == pytest.approx(plain + 100 * np.abs(entropy * outside)[1:].mean(), rel=1e-4)  # type: ignore[index]
    assert rrr["loss"].item() == pytest.approx(plain + 3 * squared, rel=1e-4)  # type: ignore[index]


def test_on_cached_features_the_gradient_is_weighted_by_the_map(case: Any) -> None:
    model, features, label, _ = case
    fine = (torch.rand(N, 1, 2 * SIZE, 2 * SIZE) > 0.5).float()  # the mask at twice the resolution of S3
    fine[0] = 0
    outside = 1 - fine.reshape(N, 1, SIZE, 2, SIZE, 2).mean(dim=(3, 5)).numpy()
    outside[0] = 0
    entropy, _ = by_hand(model, features, label)
    batch = Batch(torch.arange(N), label, features=[torch.empty(0), features], mask=fine)
    gals = GALS(GALSConfig()).loss(model, batch, PROGRESS)
    energy = (entropy * features.numpy()).sum(axis=1, keepdims=True)
    assert gals["outside"].item() == pytest.approx(np.abs(energy * outside)[1:].mean(), rel=1e-4)  # type: ignore[index]


def test_a_batch_without_ground_truth_is_not_guided(case: Any) -> None:
    model, image, label, mask = case
    batch = Batch(torch.arange(N), label, image=image, mask=torch.zeros_like(mask))
    plain = F.cross_entropy(image.flatten(1) @ model.weight.T, label).item()
    for method in (GALS(GALSConfig()), RRR(RRRConfig())):
        assert method.loss(model, batch, PROGRESS)["loss"].item() == pytest.approx(plain)  # type: ignore[index]


def test_the_penalty_trains_the_parameters(case: Any) -> None:
    model, image, label, mask = case
    batch = Batch(torch.arange(N), label, image=image, mask=mask)
    for method in (GALS(GALSConfig(weight=1e6)), RRR(RRRConfig(weight=1e6))):
        before = method.loss(model, batch, PROGRESS)["outside"].item()  # type: ignore[index]
        (gradient,) = torch.autograd.grad(method.loss(model, batch, PROGRESS)["loss"], model.weight)  # type: ignore[index]
        with torch.no_grad():
            model.weight -= 1e-2 * gradient / gradient.norm()
        assert method.loss(model, batch, PROGRESS)["outside"].item() < before  # type: ignore[index]


@pytest.mark.parametrize("method", ["gals", "rrr"])
def test_a_plain_vit_can_be_guided(method: str, experiment: Callable[..., Any]) -> None:
    trial = experiment(method, backbone="test_vit.r160_in1k", training={"image_size": 160, "epochs": 1})
    trainer = trial.trainer()
    batch = next(trainer.data.training(augment=False).epoch(np.arange(8), seed=0))
    loss = trial.method.loss(trainer.model, batch, PROGRESS)
    assert loss["outside"] > 0
    loss["outside"].backward()  # through the attention of the last block
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("method", ["gals", "rrr"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"compile": True}, "--compile"), ({"training": {"precision": "16-mixed"}}, "bf16-mixed or 32-true")],
)
def test_what_cannot_differentiate_a_gradient_is_refused(
    method: str, options: dict[str, Any], reason: str, experiment: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=reason):
        experiment(method, **options)
