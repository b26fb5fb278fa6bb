"""Several processes share a run: its record is that of one process with the same batches."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aimbench.data.sharing import Share
from aimbench.errors import ConfigError
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.models.global_norm import GlobalBatchNorm
from aimbench.train import checkpoint
from aimbench.train.processes import check_layers
from aimbench.train.whole_batch import sharing, uniform_like

SCRIPT = Path(__file__).with_name("one_of_several.py")
DEAD = 9
# Sums over processes are taken in another order than over one batch, and Adam divides small gradients by their size.
TOLERANCE = 1e-3
EXACT = "evaluation alone"

CASES = {
    "erm": {"method": "erm"},
    "aim": {"method": "aim", "training": {"batch_size": 23}},
    "groupdro": {"method": "groupdro"},
    # Three times two workers read the one shard of a split.
    "whole network": {
        "method": "erm",
        "workers": 2,
        "backbone": "test_efficientnet.r160_in1k",
        "training": {"train": "all", "augment": True, "epochs": 1, "optimizer": "sgd", "lr": 0.01},
    },
    "whole network, masks and batch norm": {
        "method": "aim",
        "backbone": "test_efficientnet.r160_in1k",
        # 192 samples: the last batch holds two, and one of three processes gets none of them.
        "training": {"train": "all", "epochs": 1, "batch_size": 19, "optimizer": "sgd", "lr": 0.01},
    },
    "sampling weights": {"method": "rwg", "training": {"epochs": 1}},
    # Steps too small to change a weight: what is left is evaluation.
    EXACT: {
        "method": "erm",
        "training": {"train": "all", "epochs": 1, "optimizer": "sgd", "lr": 1e-30, "backbone_lr": 1e-30},
    },
}


@pytest.mark.parametrize(("size", "count"), [(32, 2), (7, 3), (2, 3), (0, 2)])
def test_shares_of_a_batch_cover_it_once_and_evenly(size: int, count: int) -> None:
    parts = [np.arange(size)[Share(rank, count).of_batch(size)] for rank in range(count)]
    assert np.concatenate(parts).tolist() == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_split_is_divided_by_whole_batches() -> None:
    parts = [Share(rank, 2).of_split(10, 4).tolist() for rank in range(2)]
    assert parts == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]]
    assert Share(2, 3).of_split(5, 4).tolist() == [0, 1, 2, 3, 4]  # fewer batches than processes


def test_noise_of_the_parts_is_that_of_the_whole_batch() -> None:
    whole = torch.zeros(7, 1, 4, 4)
    torch.manual_seed(3)
    expected = torch.rand_like(whole)
    parts = []
    for rank in range(3):
        torch.manual_seed(3)
        with sharing(Share(rank, 3), 7):
            parts.append(uniform_like(whole[Share(rank, 3).of_batch(7)]))
    assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_global_batch_norm_in_one_process_is_torchs(affine: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.BatchNorm2d(5, affine=affine))
    ours = nn.Sequential(nn.BatchNorm2d(5, affine=affine))
    GlobalBatchNorm.replace_in(ours)
    assert isinstance(ours[0], GlobalBatchNorm)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    gradients = []
    for module in (theirs, ours):
        x = torch.arange(240.0).sin().reshape(4, 5, 3, 4).mul(3).add(50).requires_grad_()
        module(x).pow(3).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    x = torch.randn(4, 5, 3, 4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mixup"}, "'mixup' is not made for a batch that several processes share; .*--devices 1"),
        ({"method": "dfr_train"}, "'dfr_train' is not made for a batch"),
        ({"training": {"loader": "stream"}}, "stream reads in one process only"),
        ({"nodes": 0}, "both count from 1"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    experiment: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(**{"devices": 2, **changes})


@pytest.mark.parametrize(("backbone", "layer"), [("swin_s3_tiny_224", "drop_path"), ("test_convnext.r160_in1k", None)])
def test_layers_that_draw_for_each_sample_are_refused_where_they_train(backbone: str, layer: str | None) -> None:
    pyramid = create_pyramid(backbone)
    model = Classifier(pyramid, LinearHead(pyramid, 2))
    check_layers(model, backbone, trained=False)
    if layer is None:
        check_layers(model, backbone, trained=True)
        return
    with pytest.raises(ConfigError, match=f"{layer}.*draws at random for each sample"):
        check_layers(model, backbone, trained=True)


def test_the_number_of_devices_is_no_part_of_the_run(experiment: Callable[..., Any]) -> None:
    assert experiment(devices=2).id == experiment().id


def start(
    cases: dict[str, Any], folder: Path, mini_root: Path, count: int, dies: tuple[int, ...] = ()
) -> list[tuple[int, str]]:
    """Runs the cases on ``count`` processes: exit status and what was said, by rank.

    Their data root is ``folder``, so that the features of frozen backbones are computed by these processes.
    """
    if not (folder / "waterbirds").exists():
        (folder / "waterbirds").symlink_to(mini_root / "waterbirds")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(SCRIPT), json.dumps(cases), str(folder), str(folder), str(count), *map(str, dies)]
    around = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    logs = [folder / f"log{rank}.txt" for rank in range(count)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**around, "LOCAL_RANK": str(rank)} if count > 1 else around
        with log.open("w") as file:
            processes.append(subprocess.Popen(words, stdout=file, stderr=file, env=environment))
    try:
        statuses = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(status, log.read_text()) for status, log in zip(statuses, logs, strict=True)]


@pytest.fixture(scope="module")
def alone(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outcomes of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for status, log in start(CASES, folder, mini_root, 1):
        assert status == 0, log
    return folder


def features(folder: Path) -> dict[str, bytes]:
    """Every file of the cache of frozen features."""
    root = folder / "features"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def tables(folder: Path, name: str) -> list[pd.DataFrame]:
    """Predictions and EPG a sample, and predictions an epoch."""
    return [pd.read_parquet(folder / f"{name}.{kind}.parquet") for kind in ("predictions", "epochs")]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_the_record_is_that_of_one_process(count: int, alone: Path, mini_root: Path, tmp_path: Path) -> None:
    for status, log in start(CASES, tmp_path, mini_root, count):
        assert status == 0, log
    assert features(tmp_path) == features(alone), "computed once, by the first process, and left whole"
    for name in CASES:
        expected, record = (json.loads((folder / f"{name}.json").read_text()) for folder in (alone, tmp_path))
        assert record["id"] == expected["id"]
        assert record["environment"]["devices"] == count
        for epoch, reference in zip(record["phases"], expected["phases"], strict=True):
            assert epoch.pop("phase") == reference.pop("phase")
            # Losses, and a mask's active share.
            assert epoch == pytest.approx(reference, rel=TOLERANCE, abs=TOLERANCE), name
        weights, others = (checkpoint.load(folder / f"{name}.pt") for folder in (alone, tmp_path))
        torch.testing.assert_close(others, weights, rtol=TOLERANCE, atol=TOLERANCE)
        healths = [content["metrics"]["test"]["mask_health"] for content in (record, expected)]
        assert healths[0] == pytest.approx(healths[1], rel=10 * TOLERANCE, abs=10 * TOLERANCE), name
        for rows, reference in zip(tables(tmp_path, name), tables(alone, name), strict=True):
            pd.testing.assert_frame_equal(rows, reference, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)
            if name == EXACT:
                pd.testing.assert_frame_equal(rows, reference, check_exact=True)
        if name == EXACT:
            assert record["metrics"] == expected["metrics"], "each sample once, the same to the last digit"
            assert record["selectors"] == expected["selectors"]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_leaves_a_checkpoint(mini_root: Path, tmp_path: Path) -> None:
    cases = {"erm": CASES["erm"]}
    (first, last) = start(cases, tmp_path, mini_root, 2, dies=(1, 8))  # in the second of two epochs
    assert last[0] == DEAD
    assert first[0] == 1
    assert "another of the 2 processes of this run has ended early (this is rank 0)" in first[1]
    (kept,) = (tmp_path / "runs").rglob("last.pt")
    assert checkpoint.load(kept)["epoch"] == 0
    for status, log in start(cases, tmp_path, mini_root, 2):
        assert status == 0, log
    assert checkpoint.load(kept)["epoch"] == 1
