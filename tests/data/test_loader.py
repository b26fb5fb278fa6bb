"""The indexed loader: order, augmentation, completeness, entitlements, and damage that is named."""

import dataclasses
import io
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_raw import write_cub
from torch import Tensor

from aimbench import machine
from aimbench.data.batch import Batch
from aimbench.data.build import build
from aimbench.data.dataset import Item, ShardDataset, SplitIndex
from aimbench.data.decode import decode
from aimbench.data.loader import ImageDataset, ImageSource, _Requests, cpu_split, epoch_order
from aimbench.data.memory import DecodedCache
from aimbench.data.sharing import Share
from aimbench.data.transforms import TransformConfig
from aimbench.errors import DataError, RegimeError

PLAIN = TransformConfig(16, mean=(0.5,) * 3, std=(0.5,) * 3)
AUGMENTED = dataclasses.replace(PLAIN, augment=True)
SIZE = 24


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw, data_root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    write_cub(raw)
    build("cub", raw, data_root, partial=True, workers=1)
    return data_root


@pytest.fixture(scope="module")
def split(built: Path) -> SplitIndex:
    return ShardDataset.open("cub", built).split("train")


@pytest.fixture
def damaged(built: Path, tmp_path: Path) -> SplitIndex:
    """The same split, whose image 12 is of bytes that no decoder takes, though its checksum fits."""
    shutil.copytree(built, tmp_path / "data")
    split = ShardDataset.open("cub", tmp_path / "data").split("train")
    path = split.shard_paths[int(split.shard[12])]
    content = bytearray(path.read_bytes())
    start, size = int(split.offsets[12, 0]), int(split.sizes[12, 0])
    content[start + size // 2 : start + size] = b"\0" * (size - size // 2)
    content[start : start + 2] = b"xx"
    path.write_bytes(content)
    split.checksums[12, 0] = zlib.crc32(content[start : start + size])
    return split


def source(
    split: SplitIndex,
    transform: TransformConfig = PLAIN,
    *,
    batch_size: int = 5,
    workers: int = 0,
    fields: frozenset[str] = frozenset(),
    cache: DecodedCache | None = None,
) -> ImageSource:
    dataset = ImageDataset(split, transform, mask_threshold=0.5, with_region="mask" in fields, cache=cache)
    return ImageSource(dataset, batch_size, workers=workers, fields=fields)


def joined(batches: list[Batch]) -> Tensor:
    return torch.cat([batch.image for batch in batches])


def positions(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.index for batch in batches]).tolist()


# Order


def test_order_is_a_permutation_that_follows_from_the_seed() -> None:
    first = epoch_order(1000, seed=3)
    assert sorted(first) == list(range(1000))
    np.random.default_rng().random(7)
    assert np.array_equal(first, epoch_order(1000, seed=3))
    assert not np.array_equal(first, epoch_order(1000, seed=4))


def test_weights_are_the_frequencies() -> None:
    weights = np.array([0.0, 1, 2, 5])
    drawn = np.concatenate([epoch_order(4, seed, weights=weights) for seed in range(10_000)])
    assert len(drawn) == 40_000
    frequencies = np.bincount(drawn, minlength=4) / len(drawn)
    assert frequencies[0] == 0
    np.testing.assert_allclose(frequencies, weights / weights.sum(), atol=0.012)  # five standard errors


def test_subset_keeps_repetitions_and_takes_its_weights_along() -> None:
    subset = np.array([7, 2, 2, 9])
    assert sorted(epoch_order(10, seed=0, subset=subset)) == [2, 2, 7, 9]
    weights = np.zeros(10)
    weights[9] = 0.25
    assert epoch_order(10, seed=0, subset=subset, weights=weights).tolist() == [9] * 4


# Batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [5, 24, 100])
def test_evaluation_sees_every_sample_once(workers: int, batch_size: int, split: SplitIndex) -> None:
    batches = list(source(split, batch_size=batch_size, workers=workers).epoch(np.arange(SIZE), seed=0))
    assert positions(batches) == list(range(SIZE))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_order_given_is_the_order_of_the_batches(split: SplitIndex) -> None:
    order = np.array([3, 3, 0, 23, 11, 7])
    batches = list(source(split, workers=2, batch_size=4).epoch(order, seed=0))
    assert positions(batches) == order.tolist()
    assert torch.equal(batches[0].image[0], batches[0].image[1])
    for batch in batches:
        at = batch.index.tolist()
        assert batch.keys == [split.keys[i] for i in at]
        assert batch.label.tolist() == split.label[at].tolist()
    dropped = list(source(split, batch_size=4).epoch(order, seed=0, drop_last=True))
    assert positions(dropped) == [3, 3, 0, 23]


def test_same_batches_for_any_number_of_workers_with_augmentation(split: SplitIndex) -> None:
    order = epoch_order(SIZE, seed=1)
    expected = joined(list(source(split, AUGMENTED).epoch(order, seed=1)))
    for workers in (1, 2):
        many = source(split, AUGMENTED, workers=workers)
        next(iter(many.epoch(order[::-1].copy(), seed=9)))  # an epoch that was given up leaves no trace
        torch.rand(3)
        assert torch.equal(joined(list(many.epoch(order, seed=1))), expected)
    assert not torch.equal(joined(list(source(split, AUGMENTED).epoch(order, seed=2))), expected)


def test_augmentation_is_not_drawn_by_the_generator_that_drew_the_order() -> None:
    requests = _Requests()
    requests.set(epoch_order(4, seed=7), 7, drop_last=False, batch_size=4)
    (batch,) = requests
    assert [seed for _, seed in batch] != np.random.default_rng(7).integers(0, 2**62, size=4).tolist()


def test_a_repeated_sample_is_augmented_anew(split: SplitIndex) -> None:
    (batch,) = source(split, AUGMENTED).epoch(np.array([4, 4]), seed=0)
    assert not torch.equal(batch.image[0], batch.image[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generator_alone(workers: int, split: SplitIndex) -> None:
    before = torch.get_rng_state()
    list(source(split, AUGMENTED, workers=workers).epoch(np.arange(SIZE), seed=0))
    DecodedCache.build(split, limit_bytes=10**9, mask_threshold=0.5, with_mask=True, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


# What a batch holds


def test_batch_holds_group_and_mask_for_those_entitled(split: SplitIndex) -> None:
    batches = list(source(split, fields=frozenset({"group", "mask"})).epoch(np.arange(SIZE), seed=0))
    assert torch.cat([b.group for b in batches]).tolist() == split.group.tolist()
    masks = torch.cat([b.mask for b in batches])
    assert masks.shape == (SIZE, 1, 16, 16)
    assert set(masks.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("name", "regime"), [("group", "groups"), ("mask", "masks")])
def test_batch_refuses_what_the_regime_does_not_declare(name: str, regime: str, split: SplitIndex) -> None:
    other = frozenset({"group", "mask"} - {name})
    plain = next(iter(source(split).epoch(np.arange(SIZE), seed=0)))
    full = next(iter(source(split, fields=frozenset({"group", "mask"})).epoch(np.arange(SIZE), seed=0)))
    partly = next(iter(source(split, fields=other).epoch(np.arange(SIZE), seed=0)))
    moved = partly.to(torch.device("cpu"))
    for batch in (plain, partly, moved, full.restricted(other), full.restricted([])):
        with pytest.raises(RegimeError, match=rf'batch\.{name} .* declare Regime\(train="{regime}"\)'):
            getattr(batch, name)
    assert torch.equal(getattr(full.restricted({name}), name), getattr(full, name))


def test_batch_of_cached_features_has_no_image() -> None:
    batch = Batch(torch.arange(2), torch.zeros(2, dtype=torch.long), features=[torch.zeros(2, 3, 4, 4)])
    assert not batch.has_image
    with pytest.raises(RegimeError, match="needs_images = True"):
        _ = batch.image


def test_moving_a_batch_keeps_everything(split: SplitIndex) -> None:
    batch = next(iter(source(split, fields=frozenset({"group", "mask"})).epoch(np.arange(SIZE), seed=0)))
    moved = batch.to(torch.device("cpu"), channels_last=True)
    assert moved.image.is_contiguous(memory_format=torch.channels_last)
    for name in ("index", "label", "image", "group", "mask"):
        assert torch.equal(getattr(moved, name), getattr(batch, name)), name
    assert moved.keys == batch.keys


# Decoding


def encoded(width: int, height: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


def test_mask_pixels_at_the_threshold_are_foreground() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(buffer, "PNG")
    item = Item("k", encoded(4, 1, "PNG"), buffer.getvalue(), [])
    assert decode(item, mask_threshold=0.5).mask.tolist() == [[[0, 0, 1, 1]]]
    assert decode(item, mask_threshold=127 / 255).mask.tolist() == [[[0, 1, 1, 1]]]
    assert decode(item, mask_threshold=0.5, with_mask=False).mask is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images_of_other_modes_become_three_channels(mode: str) -> None:
    assert decode(Item("k", encoded(20, 10, mode=mode), None, []), mask_threshold=0.5).image.shape == (3, 10, 20)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_a_jpeg_has_pillows_pixels(mode: str, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    expected = np.array(Image.open(buffer).convert("RGB"))
    image = decode(Item("k", buffer.getvalue(), None, []), mask_threshold=0.5).image
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("data", [b"", b"no image at all", encoded(40, 30)[:-200], encoded(40, 30, "PNG")[:-60]])
def test_corrupt_image_or_mask_is_an_error_that_names_the_sample(data: bytes) -> None:
    with pytest.raises(DataError, match="sample wren_7: its image cannot be decoded"):
        decode(Item("wren_7", data, None, []), mask_threshold=0.5)
    with pytest.raises(DataError, match="sample wren_7: its mask cannot be decoded"):
        decode(Item("wren_7", encoded(40, 30), data, []), mask_threshold=0.5)


def test_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(DataError, match="sample wren_7: mask is 30x40, image 40x30"):
        decode(Item("wren_7", encoded(40, 30), encoded(30, 40, "PNG", "L"), []), mask_threshold=0.5)


def message_of(source: ImageSource, order: np.ndarray) -> str:
    # No pytest.raises: it would hold the frames of the loader, whose workers then end late.
    try:
        list(source.epoch(order, seed=0))
    except DataError as error:
        return str(error)
    raise AssertionError("no error")


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_sample_in_an_epoch_is_one_line_that_names_it(workers: int, damaged: SplitIndex) -> None:
    message = message_of(source(damaged, workers=workers), np.arange(SIZE))
    assert message.startswith(f"sample {damaged.keys[12]}: its image cannot be decoded")
    assert "\n" not in message
    others = np.delete(np.arange(SIZE), 12)
    assert positions(list(source(damaged, workers=workers).epoch(others, seed=0))) == others.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_sample_while_decoding_once(workers: int, damaged: SplitIndex) -> None:
    message = ""
    try:
        DecodedCache.build(damaged, limit_bytes=10**9, mask_threshold=0.5, with_mask=True, workers=workers)
    except DataError as error:
        message = str(error)
    assert message.startswith(f"sample {damaged.keys[12]}: its image cannot be decoded")
    assert "\n" not in message


# Decode once


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("with_mask", [True, False])
def test_cache_holds_what_decoding_gives(workers: int, with_mask: bool, split: SplitIndex) -> None:
    seen: list[int] = []
    cache = DecodedCache.build(
        split,
        limit_bytes=10**9,
        mask_threshold=0.5,
        with_mask=with_mask,
        workers=workers,
        on_progress=seen.append,
    )
    assert cache is not None
    assert len(cache) == SIZE == sum(seen)
    for i in range(SIZE):
        expected = decode(split.read(i), mask_threshold=0.5, with_mask=with_mask)
        assert torch.equal(cache[i].image, expected.image)
        assert torch.equal(cache[i].boxes, expected.boxes)
        assert (cache[i].mask is None) is (expected.mask is None) is not with_mask
        if expected.mask is not None:
            assert torch.equal(cache[i].mask, expected.mask)


def test_cache_is_given_up_beyond_its_limit(split: SplitIndex) -> None:
    settings = {"mask_threshold": 0.5, "with_mask": False}
    area = [np.prod(Image.open(io.BytesIO(split.read(i).image)).size) for i in range(SIZE)]
    exact = int(3 * sum(area))
    cache = DecodedCache.build(split, limit_bytes=exact, **settings)
    assert cache is not None
    assert cache.nbytes == exact
    assert DecodedCache.build(split, limit_bytes=exact - 1, **settings) is None
    assert DecodedCache.build(split, limit_bytes=0, **settings) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_cache_gives_the_same_batches(workers: int, split: SplitIndex) -> None:
    fields = frozenset({"mask"})
    cache = DecodedCache.build(split, limit_bytes=10**9, mask_threshold=0.5, with_mask=True)
    order = epoch_order(SIZE, seed=1)
    expected = list(source(split, AUGMENTED, fields=fields).epoch(order, seed=1))
    batches = list(source(split, AUGMENTED, fields=fields, cache=cache, workers=workers).epoch(order, seed=1))
    assert torch.equal(joined(batches), joined(expected))
    assert torch.equal(torch.cat([b.mask for b in batches]), torch.cat([b.mask for b in expected]))


# Frame once


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fields", [frozenset[str](), frozenset({"mask"})])
def test_what_is_kept_gives_the_same_batches(workers: int, fields: frozenset[str], split: SplitIndex) -> None:
    kept = source(split, fields=fields, workers=workers)
    seen: list[int] = []
    held = kept.dataset.keep(limit_bytes=10**9, workers=workers, on_progress=seen.append)
    assert held == SIZE * (4 if fields else 3) * 16 * 16
    assert sum(seen) == SIZE
    order = epoch_order(SIZE, seed=1)
    expected = list(source(split, fields=fields).epoch(order, seed=1))
    batches = list(kept.epoch(order, seed=1))
    assert torch.equal(joined(batches), joined(expected))
    if fields:
        assert torch.equal(torch.cat([b.mask for b in batches]), torch.cat([b.mask for b in expected]))


def test_nothing_is_kept_beyond_the_limit_nor_of_a_damaged_split(split: SplitIndex, damaged: SplitIndex) -> None:
    images = ImageDataset(split, PLAIN, mask_threshold=0.5, with_region=False)
    exact = SIZE * 3 * 16 * 16
    assert images.keep(limit_bytes=exact - 1, workers=0) is None
    assert images.framed is None
    assert images.keep(limit_bytes=exact, workers=0) == exact
    with pytest.raises(DataError, match=f"sample {damaged.keys[12]}: its image cannot be decoded"):
        ImageDataset(damaged, PLAIN, mask_threshold=0.5, with_region=False).keep(limit_bytes=exact, workers=0)


# Crops left to the device


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [True, False])
def test_the_device_takes_the_crops_of_the_seed(workers: int, kept: bool, split: SplitIndex) -> None:
    dataset = ImageDataset(split, AUGMENTED, mask_threshold=0.5, with_region=True, crop_later=True)
    if kept:
        assert dataset.keep(limit_bytes=10**9, workers=0) == SIZE * 4 * AUGMENTED.resize**2
    later = ImageSource(dataset, 5, workers=workers, fields=frozenset({"mask"}))
    order = epoch_order(SIZE, seed=1)
    expected = list(source(split, AUGMENTED, fields=frozenset({"mask"})).epoch(order, seed=1))
    batches = [batch.to(torch.device("cpu"), channels_last=True) for batch in later.epoch(order, seed=1)]
    assert batches[0].image.is_contiguous(memory_format=torch.channels_last)
    assert joined(batches).shape == joined(expected).shape
    assert (joined(batches) - joined(expected)).abs().mean() < 0.1, "the same crops, resampled twice"
    masks, others = (torch.cat([b.mask for b in part]) for part in (batches, expected))
    assert (masks != others).float().mean() < 0.05
    (empty,) = later.epoch(order[:1], seed=1, batch_size=1, share=Share(0, 2))
    assert empty.to(torch.device("cpu")).image.shape == (0, 3, 16, 16)


# Cores


@pytest.mark.parametrize(
    ("cores", "workers", "on_gpu", "expected"),
    [
        (2, None, False, (2, 0)),
        (8, None, False, (8, 0)),
        (8, None, True, (1, 7)),
        (1, None, False, (1, 0)),
        (1, 5, True, (1, 0)),
        (4, 0, False, (4, 0)),
        (4, 99, False, (1, 3)),
    ],
)
def test_threads_and_workers_never_exceed_the_cores(
    cores: int, workers: int | None, on_gpu: bool, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert cpu_split(workers, on_gpu=on_gpu) == expected
    monkeypatch.delattr(machine.os, "sched_getaffinity")  # a Mac has none
    monkeypatch.setattr(machine.os, "cpu_count", lambda: cores)
    assert cpu_split(workers, on_gpu=on_gpu) == expected
