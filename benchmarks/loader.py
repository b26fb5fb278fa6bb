"""Our loader against torchvision's ImageFolder with the same transforms, and against libjpeg-turbo alone.

Photographs of a built dataset are resampled to 500 px (longer side) and to 224 x 224 px, written once as a folder tree
and once as a shard: both sides read the same JPEG bytes. Seconds are processor time of one thread, which other programs
hardly disturb. Beside the sides, the parts of our own are measured: reading, decoding, framing (resize and crop, or the
random crop) and normalising into the batch.

    python benchmarks/loader.py --dataset cub --data data
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import alternate, row, write
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg
from torchvision.transforms import v2

from aimbench.data.batch import Batch
from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.decode import decode
from aimbench.data.loader import ImageDataset, ImageSource
from aimbench.data.memory import DecodedCache
from aimbench.data.transforms import TransformConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32
QUALITY = 95
LIMIT = 4_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cub")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()
    split = ShardDataset.open(options.dataset, options.data).split("train")
    photographs = [decode(split.read(i), mask_threshold=0.5, with_mask=False).image for i in range(options.images)]
    rows = []
    for size in (500, 224):
        encoded = [resampled(photograph, size) for photograph in photographs]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shard = write_both(encoded, folder)
            what = f"{size} px (median {np.median([len(data) for data in encoded]) / 1000:.0f} kB)"
            for augment in (False, True):
                rows += measure(shard, encoded, folder / "tree", what, options.repeats, augment=augment)
    write("loader", rows, load)


def resampled(photograph: torch.Tensor, size: int) -> bytes:
    """A JPEG of ``size`` px: its longer side, or both below 256 px, as ImageNet's small copies are."""
    image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
    scale = size / max(image.size)
    sides = (size, size) if size < 256 else tuple(round(side * scale) for side in image.size)
    buffer = io.BytesIO()
    image.resize(sides, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_both(encoded: list[bytes], folder: Path) -> SplitIndex:
    """Writes the photographs as a tree of two class folders and as one shard; the shard's index."""
    meta = json.dumps({"boxes": []}).encode()
    path = folder / "train.tar"
    keys, offsets = [f"{i:06d}" for i in range(len(encoded))], []
    with tarfile.open(path, "w") as tar:
        for i, (key, data) in enumerate(zip(keys, encoded, strict=True)):
            place = folder / "tree" / str(i % 2) / f"{key}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            offsets.append([append(tar, f"{key}.jpg", data), append(tar, f"{key}.json", meta), -1])
    count = len(encoded)
    label = np.arange(count) % 2
    return SplitIndex(
        name="train",
        keys=keys,
        label=label,
        group=label,
        place=np.full(count, -1),
        has_mask=np.zeros(count, dtype=bool),
        foreground_share=np.full(count, np.nan),
        shard=np.zeros(count, dtype=np.int64),
        offsets=np.array(offsets),
        sizes=np.array([[len(data), len(meta), 0] for data in encoded]),
        checksums=np.array([[zlib.crc32(data), zlib.crc32(meta), 0] for data in encoded]),
        shard_paths=[path],
    )


def append(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Adds a member; where its bytes begin."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def measure(
    split: SplitIndex, encoded: list[bytes], tree: Path, what: str, repeats: int, *, augment: bool
) -> list[dict[str, Any]]:
    config = TransformConfig(224, MEAN, STD, augment=augment)
    order = np.arange(len(split))
    ours = source(split, config)
    kept = keeping(split, config)
    squashed = keeping(split, config, crop_later=True)
    theirs = DataLoader(ImageFolder(tree, peer_transform(config)), batch_size=BATCH)
    transform = ours.dataset.transform
    items = [split.read(i) for i in range(len(split))]
    photographs = [decode(item, mask_threshold=0.5) for item in items]
    framed = [transform.framed(photograph, 0, with_region=False)[0] for photograph in photographs]
    seconds = alternate(
        {
            "ImageFolder": lambda: timed(theirs),
            "shards": lambda: timed(ours.epoch(order, seed=0)),
            "first epoch": lambda: timed(first_epoch(split, config, order)),
            "from memory": lambda: timed(kept.epoch(order, seed=0)),
            **(
                {"from memory, crops left to the device": lambda: timed(squashed.epoch(order, seed=0))}
                if augment
                else {}
            ),
            "decoder alone": lambda: timed(
                decode_jpeg(torch.frombuffer(bytearray(d), dtype=torch.uint8)) for d in encoded
            ),
            "of which reading": lambda: timed(split.read(i) for i in range(len(split))),
            "framing": lambda: timed(transform.framed(p, i, with_region=False) for i, p in enumerate(photographs)),
            "normalising": lambda: timed(
                transform.normalized(framed[i : i + BATCH]) for i in range(0, len(framed), BATCH)
            ),
        },
        repeats,
    )
    what = f"{what}, {'augmented' if augment else 'evaluation'}"
    kinds = [name for name in seconds if name.startswith("from memory")]
    return [
        row(f"shards against ImageFolder, {what}", seconds, "ImageFolder", "shards", 1.5),
        row(f"shards against libjpeg-turbo alone, {what}", seconds, "decoder alone", "shards", 0.85),
        *(row(f"second epoch {kind} against the first, {what}", seconds, "first epoch", kind, 10) for kind in kinds),
    ]


def source(split: SplitIndex, config: TransformConfig, *, crop_later: bool = False) -> ImageSource:
    dataset = ImageDataset(
        split, config, mask_threshold=0.5, with_region=False, crop_later=crop_later and config.augment
    )
    return ImageSource(dataset, BATCH)


def keeping(split: SplitIndex, config: TransformConfig, *, crop_later: bool = False) -> ImageSource:
    """What a run does before its first epoch: the split is decoded into memory."""
    made = source(split, config, crop_later=crop_later)
    if made.dataset.transform.is_random:
        made.dataset.cache = DecodedCache.build(split, limit_bytes=LIMIT, mask_threshold=0.5, with_mask=False)
    else:
        made.dataset.keep(limit_bytes=LIMIT, workers=0)
    return made


def first_epoch(split: SplitIndex, config: TransformConfig, order: np.ndarray) -> Iterator[Batch]:
    yield from keeping(split, config).epoch(order, seed=0)


def peer_transform(config: TransformConfig) -> v2.Compose:
    """The same steps as ours, on the PIL image that ImageFolder gives."""
    if config.augment:
        geometry = [
            v2.RandomResizedCrop(224, scale=config.crop_scale, ratio=config.crop_ratio),
            v2.RandomHorizontalFlip(),
        ]
    else:
        geometry = [v2.Resize(config.resize), v2.CenterCrop(224)]
    return v2.Compose([*geometry, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def timed(work: Iterable[Any]) -> float:
    started = time.process_time()
    for _ in work:
        pass
    return time.process_time() - started


if __name__ == "__main__":
    main()
