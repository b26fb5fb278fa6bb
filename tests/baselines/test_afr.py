"""AFR's weights and its last layer against direct computations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.baselines.afr import afr_weights
from aimbench.train import checkpoint

CLIP = 1.0


def test_weights_fall_with_certainty_and_balance_the_classes() -> None:
    certainty, label = np.array([0.9, 0.2, 0.5, 0.7, 0.1]), np.array([0, 0, 0, 1, 1])
    expected = np.array([np.exp(-4 * p) / (3 if y == 0 else 2) for p, y in zip(certainty, label, strict=True)])
    expected /= expected.sum()
    weights = afr_weights(torch.from_numpy(certainty), torch.from_numpy(label), 4.0)
    np.testing.assert_allclose(weights.numpy(), expected)
    balanced = afr_weights(torch.from_numpy(certainty), torch.from_numpy(label), 0.0)
    assert balanced[label == 0].sum() == pytest.approx(float(balanced[label == 1].sum()))


def test_the_last_layer_is_that_of_gradient_descent_written_out(experiment: Callable[..., Any]) -> None:
    settings = {
        "gamma": 3.0,
        "pull": 0.1,
        "reweighting_lr": 0.05,
        "steps": 7,
        "candidates": 3,
        "reweighting_clip": CLIP,
    }
    trial = experiment("afr", settings=settings, training={"epochs": 1}, selector="last")
    trainer = trial.trainer()
    trainer.fit()
    head = trainer.model.head
    label = trial.dataset.split("train").label
    kept = np.random.default_rng(0).permutation(len(label))[: round(0.2 * len(label))]
    with torch.no_grad():
        x = head.standardize.eval()(torch.from_numpy(trainer.embed("train").embedding[kept])).double().numpy()
    y = label[kept]
    erm = checkpoint.load(trial.folder / "phase-0.pt")["model"]
    w0, b0 = (erm[f"head.classifier.{name}"].double().numpy() for name in ("weight", "bias"))

    def probability(w: np.ndarray, b: np.ndarray) -> np.ndarray:
        logits = x @ w.T + b
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    weight = np.exp(-3 * probability(w0, b0)[np.arange(len(y)), y]) / np.bincount(y)[y]
    weight /= weight.sum()
    w, b = w0.copy(), b0.copy()
    norms: list[float] = []
    for _ in range(7):
        error = (probability(w, b) - np.eye(2)[y]) * weight[:, None]
        dw, db = error.T @ x + 2 * 0.1 * (w - w0), error.sum(axis=0) + 2 * 0.1 * (b - b0)
        norms.append(np.sqrt((dw**2).sum() + (db**2).sum()))
        scale = 0.05 * min(1.0, CLIP / norms[-1])
        w, b = w - scale * dw, b - scale * db
    assert min(norms) < CLIP < max(norms), "some steps are clipped and some are not"
    np.testing.assert_allclose(head.classifier.weight.detach().numpy(), w, atol=1e-4)
    np.testing.assert_allclose(head.classifier.bias.detach().numpy(), b, atol=1e-4)


def test_erm_does_not_see_the_samples_that_were_kept(experiment: Callable[..., Any]) -> None:
    trial = experiment("afr", seed=1, settings={"steps": 2, "candidates": 1}, training={"epochs": 1})
    seen: set[int] = set()
    original = trial.method.loss

    def noting(model: Any, batch: Any, progress: Any) -> Any:
        seen.update(batch.index.tolist())
        return original(model, batch, progress)

    trial.method.loss = noting
    trial.trainer().fit()
    size = len(trial.dataset.split("train"))
    kept = set(np.random.default_rng(1).permutation(size)[: round(0.2 * size)].tolist())
    assert seen == set(range(size)) - kept
