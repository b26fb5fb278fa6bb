"""Features of a frozen backbone, computed once, stand for the images."""

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.data.transforms import TransformConfig
from aimbench.errors import DataError
from aimbench.models.backbones import EMBEDDING, create_pyramid
from aimbench.train.features import FeatureCache

TRANSFORM = TransformConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("method", ["erm", "aim", "oracle_mask"])
def test_features_give_what_images_give(method: str, experiment: Callable[..., Any]) -> None:
    trainer = experiment(method).trainer()
    source = trainer.data.evaluation("val")
    positions = np.array([5, 40, 7])
    (cached,) = source.epoch(positions, seed=0)
    assert not cached.has_image
    region = "mask" in trainer.method.regime.fields
    (images,) = trainer.data.photographs("val", 3, region=region).epoch(positions, seed=0)
    model = trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(cached).logits, model(images).logits, rtol=1e-4, atol=1e-4)
    assert cached.keys == images.keys
    assert torch.equal(cached.label, images.label)


@pytest.mark.parametrize("backbone", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_a_backbone_of_another_kind(backbone: str, experiment: Callable[..., Any]) -> None:
    trainer = experiment("erm", backbone=backbone, training={"image_size": 160}).trainer()
    positions = np.arange(4)
    (cached,) = trainer.data.evaluation("val").epoch(positions, seed=0)
    (images,) = trainer.data.photographs("val", 4, region=False).epoch(positions, seed=0)
    model = trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(cached).logits, model(images).logits, rtol=1e-4, atol=1e-4)


def test_only_what_a_head_reads_is_kept(experiment: Callable[..., Any], mini_root: Path) -> None:
    before = set((mini_root / "features").rglob("*.npy"))
    trainer = experiment("erm", seed=77).trainer()
    trainer.data.evaluation("val")
    assert {path.name for path in set((mini_root / "features").rglob("*.npy")) - before} == {"val.embedding.npy"}


def test_an_embedding_made_from_the_cached_map_is_the_images(experiment: Callable[..., Any]) -> None:
    trainer = experiment("aim", seed=83).trainer()
    trainer.data.evaluation("val")
    from_map = experiment("erm", seed=83).trainer()
    batch = next(iter(from_map.data.evaluation("val").epoch(np.arange(8), seed=0)))
    image = next(iter(from_map.data.photographs("val", 8, region=False).epoch(np.arange(8), seed=0)))
    from_map.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(from_map.model(batch).logits, from_map.model(image).logits, rtol=1e-4, atol=1e-4)


def test_the_cache_is_found_again_and_its_key_tells_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid("test_convnext.r160_in1k")
    other = create_pyramid("test_convnext.r160_in1k")

    def folder(fingerprint: str = "f", backbone: Any = pyramid, transform: TransformConfig = TRANSFORM) -> Path:
        return FeatureCache(tmp_path, tmp_path, fingerprint, backbone, transform).folder

    assert folder() == folder()
    larger = TransformConfig(96, TRANSFORM.mean, TRANSFORM.std)
    shifted = TransformConfig(64, (0.4, 0.5, 0.5), TRANSFORM.std)
    different = [folder("g"), folder(backbone=other), folder(transform=larger), folder(transform=shifted)]
    assert len({folder(), *different}) == 5


def test_random_backbones_of_two_seeds_share_no_features(experiment: Callable[..., Any]) -> None:
    one, other, again = (experiment(seed=seed).trainer() for seed in (0, 1, 0))
    positions = np.arange(3)
    batches = [next(iter(t.data.evaluation("val").epoch(positions, seed=0))) for t in (one, other, again)]
    first, second, third = (batch.features[-1] for batch in batches)
    assert not torch.allclose(first, second)
    assert torch.equal(first, third)


def test_a_stopped_computation_is_not_taken_for_a_whole_one(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class _StoppedError(Exception):
        pass

    trainer = experiment(seed=78).trainer()

    def stop(self: object, image: object) -> None:
        raise _StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.model.pyramid), "forward", stop)
        with pytest.raises(_StoppedError):
            trainer.data.evaluation("val")
    cache = trainer.data._features
    assert cache.missing("val", (EMBEDDING,), region=False) == ["embedding"]
    assert not list(cache.folder.glob("*.partial"))
    host = socket.gethostname()
    killed, at_work = (cache.folder / f"val.embedding.{host}-{pid}.partial" for pid in (2**30, os.getppid()))
    killed.touch()
    at_work.touch()
    monkeypatch.setattr("aimbench.train.features.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"has 0\.0 GB free, .* split val need .*--data"):
        trainer.data.evaluation("val")
    monkeypatch.undo()
    assert len(next(trainer.data.evaluation("val").epoch(np.arange(48), seed=0)).features[EMBEDDING]) == 48
    assert list(cache.folder.glob("*.partial")) == [at_work]


def test_augmentation_needs_images(experiment: Callable[..., Any]) -> None:
    trainer = experiment(training={"augment": True}).trainer()
    batch = next(iter(trainer.data.training(augment=True).epoch(np.arange(4), seed=0)))
    assert batch.has_image
    assert batch.features is None


def test_computing_features_or_finding_them_changes_nothing(experiment: Callable[..., Any], tmp_path: Path) -> None:
    computed, found = (
        experiment("aim", seed=79, runs_root=tmp_path / name, training={"epochs": 1}).run() for name in ("one", "two")
    )
    assert computed.files["epochs"] == found.files["epochs"]
    assert computed.record.phases == found.record.phases


def test_features_of_data_that_cannot_be_written_beside_lie_with_the_runs(
    experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for folder in ("waterbirds", "travelingbirds"):
        if (experiment().request.data_root / folder).exists():
            (data / folder).symlink_to(experiment().request.data_root / folder)
    access = os.access
    experiment("erm", data_root=data, runs_root=tmp_path / "before").run()
    # A test may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: data not in (path, *Path(path).parents) and access(path, mode))
    experiment("erm", data_root=data, runs_root=tmp_path / "reads").run()
    assert not (tmp_path / "reads" / "features").exists()  # what is there is read
    shutil.rmtree(data / "features")
    experiment("erm", data_root=data, runs_root=tmp_path / "runs").run()
    assert list((tmp_path / "runs" / "features").rglob("train.embedding.npy"))
    assert not (data / "features").exists()


@pytest.mark.parametrize("left", [0, 200])
def test_a_cut_file_is_named_with_what_to_remove(experiment: Callable[..., Any], left: int) -> None:
    trainer = experiment(seed=79 + left).trainer()
    trainer.data.evaluation("val")
    cache = trainer.data._features
    file = cache.folder / "val.embedding.npy"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(DataError, match=rf"{file} are damaged .*; remove {cache.folder}"):
        cache.load("val", "embedding")


def test_a_changed_value_is_named_with_its_row(experiment: Callable[..., Any]) -> None:
    trainer = experiment(seed=81).trainer()
    trainer.data.evaluation("val")
    cache = trainer.data._features
    file = cache.folder / "val.embedding.npy"
    rows = np.load(file, mmap_mode="r")
    with file.open("r+b") as bytes_:
        bytes_.seek(rows.offset + 5 * rows.strides[0] + 3)
        bytes_.write(b"\x7f")
    source = trainer.data.evaluation("val")
    assert len(list(source.epoch(np.arange(5), seed=0))) > 0
    with pytest.raises(DataError, match=rf"{file} are damaged \(row 5 changed .*; remove {cache.folder}"):
        list(source.epoch(np.arange(10), seed=0))


def test_a_header_that_changed_is_named(experiment: Callable[..., Any]) -> None:
    trainer = experiment(seed=85).trainer()
    trainer.data.evaluation("val")
    cache = trainer.data._features
    file = cache.folder / "val.embedding.npy"
    whole = file.read_bytes()
    start = np.load(file, mmap_mode="r").offset
    read = 0
    for place in range(start):
        for bit in (1, 4, 64):
            changed = bytearray(whole)
            changed[place] ^= bit
            file.write_bytes(changed)
            # Some changes mean nothing, such as one of the padding; what means something is told as ours.
            with suppress(DataError):
                rows = cache.load("val", "embedding")
                rows.take(torch.arange(len(rows)))
                read += 1
    assert 0 < read < start, "most changes are told"
