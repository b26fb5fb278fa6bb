"""Runs on a CUDA GPU against the same runs on the CPU; `make test-gpu`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, the default of convolutions on a GPU, has ten bits: too few to compare with a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def losses(make: Callable[..., Any], method: str, device: str, folder: Path, **training: Any) -> list[float]:
    run = make(method, accelerator=device, runs_root=folder / device, epg_samples=8, training=training).run()
    assert 0.0 <= run.record.metrics["test"].accuracy.value <= 1.0
    return [phase["loss"] for phase in run.record.phases]


@pytest.mark.parametrize("method", ["erm", "aim"])
@pytest.mark.parametrize(("train", "tolerance"), [("head", 1e-3), ("all", 1e-2)])
def test_training_follows_the_cpu(
    experiment: Callable[..., Any], tmp_path: Path, method: str, train: str, tolerance: float
) -> None:
    on_gpu = losses(experiment, method, "cuda", tmp_path, train=train)
    assert on_gpu == pytest.approx(losses(experiment, method, "cpu", tmp_path, train=train), rel=tolerance)


@pytest.mark.parametrize("method", ["erm", "aim"])
def test_half_precision_and_channels_last_stay_near(
    experiment: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    training = {"train": "all", "channels_last": True}
    on_gpu = losses(experiment, method, "cuda", tmp_path, precision="bf16-mixed", **training)
    assert on_gpu == pytest.approx(losses(experiment, method, "cpu", tmp_path, **training), rel=5e-2)


@pytest.mark.parametrize(
    ("request_", "training"), [({"compile": True}, {}), ({}, {"augment_on": "device"}), ({}, {"optimizer": "sgd"})]
)
def test_what_pays_on_a_gpu_runs_there(
    experiment: Callable[..., Any], tmp_path: Path, request_: dict[str, Any], training: dict[str, Any]
) -> None:
    def make(method: str, **changes: Any) -> Any:
        return experiment(method, **changes, **request_)

    given = {"train": "all", "epochs": 1, "augment": True, **training}
    on_gpu = losses(make, "erm", "cuda", tmp_path, **given)
    assert on_gpu == pytest.approx(losses(make, "erm", "cpu", tmp_path, **given), rel=1e-2)
