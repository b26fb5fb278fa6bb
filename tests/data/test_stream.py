"""The stream against the index: the same samples, each once, and nothing skipped."""

import dataclasses
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_raw import write_cub

from aimbench.data import shards
from aimbench.data.batch import Batch
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.loader import ImageDataset, ImageSource
from aimbench.data.stream import StreamSource, read_shard
from aimbench.data.stream import _dividing as dividing
from aimbench.data.transforms import TransformConfig
from aimbench.errors import DataError, RegimeError

PLAIN = TransformConfig(16, mean=(0.5,) * 3, std=(0.5,) * 3)
AUGMENTED = dataclasses.replace(PLAIN, augment=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose training split has 24 samples in shards of 5, 5, 5, 5 and 4."""
    raw, data_root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    write_cub(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_SAMPLES", 5)
        build("cub", raw, data_root, partial=True, workers=1)
    return data_root


@pytest.fixture
def split(built: Path, tmp_path: Path) -> SplitIndex:
    """A copy that a test may damage."""
    shutil.copytree(built, tmp_path / "data")
    return ShardDataset.open("cub", tmp_path / "data").split("train")


@pytest.fixture
def stream(split: SplitIndex) -> Callable[..., StreamSource]:
    def make(transform: TransformConfig = PLAIN, batch_size: int = 4, **changes: object) -> StreamSource:
        values = {"mask_threshold": 0.5, "shuffle_buffer": 6, **changes}
        return StreamSource(split, transform, batch_size, **values)  # type: ignore[arg-type]

    return make


def positions(batches: Iterator[Batch]) -> list[int]:
    return [position for batch in batches for position in batch.index.tolist()]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 7])
def test_every_sample_comes_exactly_once_for_any_number_of_workers(
    workers: int, stream: Callable[..., StreamSource]
) -> None:
    batches = list(stream(batch_size=7, workers=workers).epoch(seed=1))
    assert sorted(positions(iter(batches))) == list(range(24))
    assert [len(batch) for batch in batches] == [7, 7, 7, 3]


def test_dropping_the_last_batch_leaves_whole_ones(stream: Callable[..., StreamSource]) -> None:
    assert [len(batch) for batch in stream(batch_size=7, workers=2).epoch(seed=1, drop_last=True)] == [7, 7, 7]


def test_batches_hold_what_the_indexed_loader_gives(split: SplitIndex, stream: Callable[..., StreamSource]) -> None:
    fields = frozenset({"group", "mask"})
    dataset = ImageDataset(split, PLAIN, mask_threshold=0.5, with_region=True)
    indexed = ImageSource(dataset, 24, fields=fields)
    (expected,) = indexed.epoch(np.arange(24), seed=0)
    for batch in stream(fields=fields).epoch(seed=3):
        assert torch.equal(batch.image, expected.image[batch.index])
        assert torch.equal(batch.mask, expected.mask[batch.index])
        assert torch.equal(batch.label, expected.label[batch.index])
        assert torch.equal(batch.group, expected.group[batch.index])
        assert batch.keys == [expected.keys[i] for i in batch.index.tolist()]


def test_the_seed_decides_order_and_augmentation(stream: Callable[..., StreamSource]) -> None:
    source = stream(AUGMENTED)
    first, again, other = (list(source.epoch(seed)) for seed in (5, 5, 6))
    assert positions(iter(first)) == positions(iter(again)) != positions(iter(other))
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("readers", [2, 12])
def test_order_and_augmentation_do_not_depend_on_the_number_of_workers(
    readers: int, stream: Callable[..., StreamSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five shards, readers have some each or some of them none; either way some have more chunks than others."""
    monkeypatch.setattr("aimbench.data.stream.READERS", readers)
    alone, *others = (list(stream(AUGMENTED, workers=workers).epoch(seed=5)) for workers in (0, 1, 2, 5))
    for batches in others:
        assert positions(iter(batches)) == positions(iter(alone))
        assert all(torch.equal(a.image, b.image) for a, b in zip(batches, alone, strict=True))


@pytest.mark.parametrize(("asked", "used"), [(0, 0), (1, 1), (2, 2), (5, 4), (7, 6), (11, 6), (40, 12)])
def test_workers_have_equally_many_readers(asked: int, used: int) -> None:
    assert dividing(asked) == used


def test_an_epoch_leaves_the_global_generator_alone(stream: Callable[..., StreamSource]) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(stream(AUGMENTED, workers=workers).epoch(seed=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_order_is_shuffled_across_the_shards_of_a_reader(
    split: SplitIndex, stream: Callable[..., StreamSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimbench.data.stream.READERS", 1)
    order = positions(stream(shuffle_buffer=24).epoch(seed=0))
    assert order != sorted(order)
    assert len(set(split.shard[order[:5]].tolist())) > 1
    unbuffered = positions(stream(shuffle_buffer=1).epoch(seed=0))
    assert (np.diff(split.shard[unbuffered]) != 0).sum() == 4  # whole shards, one after the other


def test_fields_that_were_not_given_are_refused(stream: Callable[..., StreamSource]) -> None:
    batch = next(stream().epoch(seed=0))
    with pytest.raises(RegimeError, match=r"batch\.group"):
        _ = batch.group
    with pytest.raises(RegimeError, match=r"batch\.mask"):
        _ = batch.mask


# Damage


def error_of(source: StreamSource) -> str:
    with pytest.raises(DataError) as caught:
        list(source.epoch(seed=0))
    message = str(caught.value)
    assert "\n" not in message
    assert "rebuild with 'aimbench data build" in message or "aimbench data verify" in message
    return message


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_byte_names_shard_and_sample(
    workers: int, split: SplitIndex, stream: Callable[..., StreamSource]
) -> None:
    path = split.shard_paths[2]
    content = bytearray(path.read_bytes())
    content[int(split.offsets[12, 0]) + 60] ^= 1
    path.write_bytes(content)
    message = error_of(stream(workers=workers))
    assert f"shard {path}, sample {split.keys[12]}: image is corrupt" in message


def member_header(split: SplitIndex, position: int, column: int) -> int:
    return int(split.offsets[position, column]) - tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    ("cut", "place"),
    [
        (lambda s: int(s.offsets[12, 0]) + 10, 12),  # within an image
        (lambda s: member_header(s, 12, 0) + 100, 12),  # within a header, which tarfile takes for the end
        (lambda s: member_header(s, 12, 0), 12),  # between two samples
        (lambda s: member_header(s, 12, 2), 12),  # before a mask
        (lambda s: 0, None),  # an empty file
    ],
    ids=["image", "header", "between", "mask", "empty"],
)
def test_truncated_shard_is_an_error_wherever_it_was_cut(
    cut: Callable[[SplitIndex], int], place: int | None, split: SplitIndex, stream: Callable[..., StreamSource]
) -> None:
    path = split.shard_paths[2]
    path.write_bytes(path.read_bytes()[: cut(split)])
    where = f"shard {path}" if place is None else f"shard {path}, sample {split.keys[place]}"
    message = error_of(stream())
    assert message.startswith(f"{where}: ")
    assert len(message.split("; rebuild")[0]) > len(where) + 5  # it says what is wrong


def test_missing_shard(split: SplitIndex, stream: Callable[..., StreamSource]) -> None:
    split.shard_paths[0].unlink()
    assert f"shard {split.shard_paths[0]}: No such file" in error_of(stream())


def test_shard_with_a_sample_too_many(split: SplitIndex, stream: Callable[..., StreamSource]) -> None:
    path = split.shard_paths[2]
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("stranger.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    expected = f"shard {path}, sample {split.keys[14]}: stranger.jpg follows it, which is not in the index"
    assert error_of(stream()).startswith(expected)


def test_two_shards_that_changed_places(split: SplitIndex, stream: Callable[..., StreamSource]) -> None:
    first, second = split.shard_paths[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert re.search(
        rf"sample {split.keys[0]}: {split.keys[5]}\.\w+ stands in the place of its image", error_of(stream())
    )


def test_sample_whose_bytes_are_no_image(split: SplitIndex, stream: Callable[..., StreamSource]) -> None:
    """A shard that agrees with its index, of a JPEG that was bad when it was written."""
    path = split.shard_paths[2]
    content = bytearray(path.read_bytes())
    start, size = int(split.offsets[12, 0]), int(split.sizes[12, 0])
    content[start : start + size] = b"\0" * size
    path.write_bytes(content)
    split.checksums[12, 0] = zlib.crc32(b"\0" * size)
    message = error_of(stream(workers=1))
    assert f"sample {split.keys[12]}: its image cannot be decoded" in message


def test_shard_is_read_as_the_index_reads_it(split: SplitIndex) -> None:
    for shard in range(5):
        for position, item in read_shard(split, shard):
            assert item == split.read(position)
