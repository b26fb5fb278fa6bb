"""Classifier retraining: the backbone stays that of the ERM model, a new last layer sees classes equally often."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.baselines.crt import CRT
from aimbench.train import checkpoint


@pytest.mark.parametrize("epochs", [None, 3])
def test_the_second_phase_draws_every_class_equally_often(epochs: int | None) -> None:
    run = SimpleNamespace(labels=np.repeat([0, 1, 2], [6, 3, 1]))
    first, second = CRT(CRT.configure({"retrain_epochs": epochs})).phases(run)  # type: ignore[arg-type]
    assert not first.chooses_samples
    np.testing.assert_allclose(second.weights, np.repeat([1 / 6, 1 / 3, 1], [6, 3, 1]))
    assert (second.epochs, second.start, second.settings) == (epochs, "new_head", {"train": "head"})


def test_the_backbone_is_that_of_the_erm_model_and_the_last_layer_is_new(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[torch.Tensor] = []
    loss = CRT.loss

    def noting(self: CRT, model: Any, batch: Any, progress: Any) -> Any:
        if progress.step == 0:
            heads.append(model.head.classifier.weight.detach().clone())
        return loss(self, model, batch, progress)

    monkeypatch.setattr(CRT, "loss", noting)
    training = {"train": "all", "epochs": 1, "backbone_lr": 1e-2}
    trainer = experiment("crt", backbone="test_resnet.r160_in1k", training=training).trainer()
    untrained = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    erm, retrained = (checkpoint.load(trainer.folder / f"phase-{number}.pt")["model"] for number in (0, 1))
    backbone = [name for name in erm if name.startswith("pyramid.")]
    assert all(torch.equal(erm[name], retrained[name]) for name in backbone)  # statistics of batch norms, too
    assert not all(torch.equal(erm[name], untrained[name]) for name in backbone)
    fresh = untrained["head.classifier.weight"]
    assert torch.equal(heads[0], fresh)
    assert torch.equal(heads[1], fresh)
    assert not torch.equal(erm["head.classifier.weight"], fresh)
