"""Fixtures that several floors share: mini datasets, built once, and quick experiments on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = "test_convnext.r160_in1k"
"""A network of timm's made for tests: four stages, under 0.3 million parameters."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the minis of TravelingBirds and Waterbirds."""
    from aimbench.data.build import build

    root = tmp_path_factory.mktemp("data")
    for name in ("travelingbirds@mini", "waterbirds@mini"):
        build(name, raw=None, data_root=root, workers=1)
    return root


@pytest.fixture
def experiment(mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes an experiment on a mini with a tiny random backbone at 64 px."""
    from aimbench.train.experiment import Experiment, Request

    # One thread is quickest for networks this small, and a busy machine's threads would wait for each other.
    monkeypatch.setattr("aimbench.train.experiment.cpu_split", lambda workers, on_gpu, processes: (1, workers or 0))

    def make(method: str = "erm", dataset: str = "waterbirds@mini", **changes: Any) -> Experiment:
        training = {"epochs": 2, "batch_size": 32, "image_size": 64, **changes.pop("training", {})}
        values: dict[str, Any] = {
            "backbone": TINY,
            "weights": "none",
            "seed": 0,
            "data_root": mini_root,
            "runs_root": tmp_path / "runs",
            "epg_samples": 8,
            "workers": 0,
            "accelerator": "cpu",
            **changes,
        }
        return Experiment(Request(method=method, dataset=dataset, training=training, **values))

    return make
