"""The Hugging Face mirrors that the cards name, from local folders of the same schema."""

import io
from pathlib import Path
from typing import Any

import datasets as hugging_face
import numpy as np
import pytest
from PIL import Image

from aimbench.cards import load_card
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.verify import verify
from aimbench.errors import DataError


def jpeg(value: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), value % 256, np.uint8)).save(buffer, "JPEG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(folder: Path, splits: dict[str, list[dict[str, Any]]], features: dict[str, Any]) -> None:
    """One folder a split and numbered files, as the hub converts datasets."""
    for split, rows in splits.items():
        (folder / split).mkdir(parents=True)
        table = hugging_face.Dataset.from_list(rows, features=hugging_face.Features(features))
        for i in range(2):
            table.shard(2, i).to_parquet(folder / split / f"{i:04d}.parquet")


def read(dataset: ShardDataset, split: str) -> dict[str, tuple[bytes, int, int]]:
    """Image, label and group of each sample, by key."""
    index = dataset.split(split)
    return {key: (index.read(i).image, int(index.label[i]), int(index.group[i])) for i, key in enumerate(index.keys)}


WOOF_NAMES = [
    "Australian terrier",
    "Border terrier",
    "Samoyed",
    "Beagle",
    "Shih-Tzu",
    "English foxhound",
    "Rhodesian ridgeback",
    "Dingo",
    "Golden retriever",
    "Old English sheepdog",
]
"""As dataset_infos.json of frgfm/imagewoof lists them, which is not the order of its labels."""


@pytest.mark.parametrize(
    ("variant", "folder"), [("parquet", "full_size"), ("parquet-320", "320px"), ("parquet-160", "160px")]
)
def test_imagewoof_goes_by_index(tmp_path: Path, variant: str, folder: str) -> None:
    features = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=WOOF_NAMES)}
    splits = {
        "train": [{"image": jpeg(i), "label": i % 10} for i in range(100)],
        "validation": [{"image": jpeg(100 + i), "label": i % 10} for i in range(20)],
    }
    # as fetched: the repository's folder of that size, inside the source's folder
    write_parquet(tmp_path / "raw" / f"imagewoof-{folder}" / folder, splits, features)
    dataset = build(f"imagewoof@{variant}", tmp_path / "raw", tmp_path / "data", partial=True, workers=1).dataset
    verify(dataset)
    assert dataset.manifest.classes == load_card("imagewoof").classes
    assert {name: split.count for name, split in dataset.manifest.splits.items()} == {
        "train": 90,
        "val": 10,
        "test": 20,
    }
    for key, (image, label, group) in read(dataset, "test").items():
        row = int(key.removeprefix("validation-"))
        assert (image, label, group) == (jpeg(100 + row)["bytes"], row % 10, row % 10)


def test_imagewoof_with_labels_in_another_order_is_refused(tmp_path: Path) -> None:
    """The counts by class tell: as many images as official, of other classes."""
    counts = load_card("imagewoof").variants["parquet"].counts
    image = jpeg(0)
    splits = {
        theirs: [
            {"image": image, "label": label}
            for label, number in enumerate(reversed(counts[ours].classes or []))
            for _ in range(number)
        ]
        for theirs, ours in (("train", "train+val"), ("validation", "test"))
    }
    features = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=WOOF_NAMES)}
    write_parquet(tmp_path / "raw" / "imagewoof-full_size", splits, features)
    with pytest.raises(DataError, match=r"train\+val classes \[940, 921, .* not \[941, 942"):
        build("imagewoof@parquet", tmp_path / "raw", tmp_path / "data", workers=1)


@pytest.mark.parametrize("form", ["parquet", "saved"])
@pytest.mark.parametrize("named", [False, True])
def test_waterbirds(tmp_path: Path, form: str, named: bool) -> None:
    """The columns image, label, bird and place of grodino/waterbirds, as numbers or as class labels."""
    whole = hugging_face.Value("int64")
    features = {
        "image": hugging_face.Image(),
        "label": hugging_face.ClassLabel(names=["landbird", "waterbird"]) if named else whole,
        "bird": whole,
        "place": hugging_face.ClassLabel(names=["Land", "Water"]) if named else whole,
    }
    splits = {
        split: [{"image": jpeg(50 * n + i), "label": i % 2, "bird": i % 5, "place": i // 2 % 2} for i in range(12)]
        for n, split in enumerate(("train", "validation", "test"))
    }
    folder = tmp_path / "raw" / "waterbirds"
    if form == "parquet":
        write_parquet(folder / "data", splits, features)
    else:
        tables = {
            split: hugging_face.Dataset.from_list(rows, features=hugging_face.Features(features))
            for split, rows in splits.items()
        }
        hugging_face.DatasetDict(tables).save_to_disk(folder)
    dataset = build("waterbirds@95-parquet", tmp_path / "raw", tmp_path / "data", partial=True, workers=1).dataset
    verify(dataset)
    assert (dataset.manifest.places, dataset.manifest.ground_truth.share_with_mask) == (["land", "water"], 0)
    for n, (split, theirs) in enumerate((("train", "train"), ("val", "validation"), ("test", "test"))):
        found = read(dataset, split)
        assert len(found) == 12
        for key, sample in found.items():
            row = int(key.removeprefix(f"{theirs}-"))
            assert sample == (jpeg(50 * n + row)["bytes"], row % 2, 2 * (row % 2) + row // 2 % 2)


def test_imagenet100(tmp_path: Path) -> None:
    """The schema of clane9/imagenet-100: names in the order of the list, which are compared."""
    names = load_card("imagenet100").variants["cmc"].options["class_names"]
    features = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=names)}
    splits = {
        "train": [{"image": jpeg(i), "label": i % 100} for i in range(200)],
        "validation": [{"image": jpeg(i), "label": i} for i in range(100)],
    }
    write_parquet(tmp_path / "raw" / "imagenet-100" / "data", splits, features)
    dataset = build("imagenet100@parquet", tmp_path / "raw", tmp_path / "data", partial=True, workers=1).dataset
    verify(dataset)
    assert dataset.manifest.classes == names
    assert sorted(label for _, label, _ in read(dataset, "test").values()) == list(range(100))
