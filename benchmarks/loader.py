"""Our loader against torchvision's ImageFolder with the same transforms, and against the decoder alone.

Seconds are those of one core (processor time of one thread), which other programs hardly disturb.

    python benchmarks/loader.py --dataset waterbirds@95 --data data
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import alternate, row, write
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.loader import ImageDataset, ImageSource
from aimbench.data.memory import DecodedCache
from aimbench.data.transforms import TransformConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@95")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()
    split = ShardDataset.open(options.dataset, options.data).split("train")
    order = np.arange(min(options.images, len(split)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        side = write_tree(split, order, Path(folder))
        for augment in (False, True):
            rows += measure(split, order, Path(folder), f"{side:.0f} px", options.repeats, augment=augment)
    write("loader", rows, load)


def write_tree(split: SplitIndex, order: np.ndarray, folder: Path) -> float:
    """Writes the same bytes as an ImageFolder tree; returns the median longer side in pixels."""
    sides = []
    for i in order.tolist():
        data = split.read(i).image
        path = folder / str(split.label[i]) / f"{i:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        sides.append(max(Image.open(io.BytesIO(data)).size))
    return float(np.median(sides))


def measure(
    split: SplitIndex, order: np.ndarray, folder: Path, size: str, repeats: int, *, augment: bool
) -> list[dict]:
    config = TransformConfig(224, MEAN, STD, augment=augment)
    ours = source(split, config, None)
    cache = DecodedCache.build(split, limit_bytes=4_000_000_000, mask_threshold=0.5, with_mask=False)
    cached = source(split, config, cache)
    folder_set = ImageFolder(folder, peer_transform(config))
    theirs = DataLoader(folder_set, batch_size=BATCH)
    encoded = [split.read(i).image for i in order.tolist()]

    def decode_alone() -> float:
        started = time.process_time()
        for data in encoded:
            Image.open(io.BytesIO(data)).convert("RGB").load()
        return time.process_time() - started

    seconds = alternate(
        {
            "ImageFolder": lambda: timed(iter(theirs)),
            "shards": lambda: timed(ours.epoch(order, seed=0)),
            "from memory": lambda: timed(cached.epoch(order, seed=0)),
            "decoder alone": decode_alone,
        },
        repeats,
    )
    kind = "augmented" if augment else "evaluation"
    return [
        row(f"shards against ImageFolder, {size}, {kind}", seconds, "ImageFolder", "shards", 1.5),
        row(f"shards against the decoder alone, {size}, {kind}", seconds, "decoder alone", "shards", 0.85),
        row(f"second epoch from memory against the first, {size}, {kind}", seconds, "shards", "from memory", 10),
    ]


def source(split: SplitIndex, config: TransformConfig, cache: DecodedCache | None) -> ImageSource:
    return ImageSource(ImageDataset(split, config, mask_threshold=0.5, with_region=False, cache=cache), BATCH)


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


def timed(batches) -> float:
    started = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - started


if __name__ == "__main__":
    main()
