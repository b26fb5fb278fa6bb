import csv
import json
from pathlib import Path

import datasets as hugging_face
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from tiny_tree import write_card, write_tree
from torchvision.datasets import ImageFolder

from aimbench.data.build import build
from aimbench.data.croissant import CROISSANT_NAME, croissant
from aimbench.data.dataset import ShardDataset
from aimbench.data.export import _folder_name, export_hugging_face, export_image_folder
from aimbench.data.samples import decode_mask, decode_rgb
from aimbench.errors import DataError


@pytest.fixture
def dataset(raw: Path, data_root: Path) -> ShardDataset:
    return build("waterbirds@95-regenerated", raw, data_root, partial=True, workers=1).dataset


def test_hugging_face_round_trip_pixel_for_pixel(dataset: ShardDataset, tmp_path: Path) -> None:
    exported = hugging_face.load_from_disk(export_hugging_face(dataset, tmp_path / "hf"))
    assert list(exported) == list(dataset.splits)
    assert isinstance(exported["train"].features["image"], hugging_face.Image)
    assert isinstance(exported["train"].features["mask"], hugging_face.Image)
    assert exported["train"].features["group"].names == dataset.manifest.groups
    for split in dataset.splits:
        index = dataset.split(split)
        assert exported[split]["key"] == index.keys
        for i, row in enumerate(exported[split]):
            item = index.read(i)
            assert np.array_equal(np.asarray(row["image"].convert("RGB")), decode_rgb(item.image, "image"))
            assert item.mask is not None
            assert np.array_equal(np.asarray(row["mask"]), decode_mask(item.mask, "mask"))
            assert (row["label"], row["group"], row["place"]) == (index.label[i], index.group[i], index.place[i])
            assert [tuple(box) for box in row["boxes"]] == item.boxes


def test_export_is_raw_data_again(dataset: ShardDataset, tmp_path: Path) -> None:
    """Raw -> shards -> Hugging Face -> shards by a card alone: the same samples."""
    export_hugging_face(dataset, tmp_path / "raw" / "mine")
    options = {
        "splits": {name: name for name in dataset.splits},
        "key": "key",
        "place": "place",
        "mask": "mask",
        "boxes": "boxes",
    }
    manifest = dataset.manifest
    cards = write_card(
        tmp_path,
        {"layout": "huggingface", "options": options},
        classes=manifest.classes,
        groups=manifest.groups,
        splits={name: name for name in dataset.splits},
    )
    again = build("mine", tmp_path / "raw", tmp_path / "again", cards_dir=cards, workers=1).dataset
    for split in dataset.splits:
        one, other = dataset.split(split), again.split(split)
        assert one.keys == other.keys
        assert one.group.tolist() == other.group.tolist()
        assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]


def test_image_folder_is_read_by_torchvision_and_by_hugging_face(dataset: ShardDataset, tmp_path: Path) -> None:
    out = export_image_folder(dataset, tmp_path / "out")
    for split in dataset.splits:
        index = dataset.split(split)
        folder = ImageFolder(str(out / split))
        assert folder.classes == dataset.manifest.classes
        found = {Path(path).stem: (Path(path).read_bytes(), label) for path, label in folder.samples}
        assert found == {key: (index.read(i).image, index.label[i]) for i, key in enumerate(index.keys)}
        with (out / split / "metadata.csv").open(newline="") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        for i, key in enumerate(index.keys):
            assert rows[key]["group"] == dataset.manifest.groups[index.group[i]]
            assert json.loads(rows[key]["boxes"]) == [list(box) for box in index.read(i).boxes]
            assert (out / rows[key]["mask_file"]).read_bytes() == index.read(i).mask
    loaded = hugging_face.load_dataset("imagefolder", data_dir=str(out / "train"), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) == len(dataset.split("train"))
    assert (out / "README.md").read_text().startswith("# Waterbirds")


def test_what_is_there_is_not_written_over(dataset: ShardDataset, tmp_path: Path) -> None:
    for export in (export_hugging_face, export_image_folder):
        with pytest.raises(DataError, match="exists already"):
            export(dataset, tmp_path)
    assert not list(tmp_path.glob("*.writing"))


def test_a_bird_before_no_place_has_none_in_either_export(raw: Path, data_root: Path, tmp_path: Path) -> None:
    birds = build("travelingbirds@regenerated", raw, data_root, partial=True, workers=1).dataset
    hub = hugging_face.load_from_disk(export_hugging_face(birds, tmp_path / "hf"))
    assert set(hub["test_black"]["place"]) == {None}
    assert list(hub["test"]["place"]) == birds.split("test").place.tolist()
    out = export_image_folder(birds, tmp_path / "out")
    for split, places in (
        ("test_black", {""}),
        ("test", {birds.manifest.places[place] for place in birds.split("test").place}),
    ):
        with (out / split / "metadata.csv").open(newline="") as file:
            assert {row["place"] for row in csv.DictReader(file)} == places


def test_classes_of_one_folder_name_are_not_mixed(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw" / "mine", train=4, val=1)
    names = {"class_folders": ["cat", "dog"], "class_names": ["big: cat", "big? cat"]}
    cards = write_card(tmp_path, {"options": {"splits": {"train": "train", "test": "val"}, **names}})
    dataset = build("mine", tmp_path / "raw", tmp_path / "data", cards_dir=cards, workers=1, partial=True).dataset
    with pytest.raises(DataError, match="give the same folder name; rename the classes"):
        export_image_folder(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../up", "/etc", "a/b", "a\\b", "..", "", "a\0b"])
def test_class_names_lead_nowhere(name: str, tmp_path: Path) -> None:
    folder = _folder_name(name)
    assert folder not in ("", ".", "..")
    assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("suffix", ["JPEG", "png"])
def test_an_image_that_others_would_turn_lies_as_its_boxes_do(tmp_path: Path, suffix: str) -> None:
    tree = write_tree(tmp_path / "raw" / "mine", train=4, val=1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.arange(40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tree / "val" / "cat" / f"turned.{suffix}", exif=exif)
    dataset = build("mine", tmp_path / "raw", tmp_path / "data", cards_dir=write_card(tmp_path), workers=1).dataset
    test = dataset.split("test")
    i = test.keys.index("cat__turned")
    ours = decode_rgb(test.read(i).image, "image")
    assert ours.shape == (30, 40, 3)
    hub = hugging_face.load_from_disk(export_hugging_face(dataset, tmp_path / "hf"))
    assert np.array_equal(np.asarray(hub["test"][i]["image"]), ours)
    (file,) = export_image_folder(dataset, tmp_path / "out").rglob("cat__turned.*")
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), ours)


def test_grey_images_and_no_masks(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "mine"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(4):
                path = folder / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 9), 10 * i, np.uint8)).save(path)
    cards = write_card(tmp_path)
    dataset = build("mine", tmp_path / "raw", tmp_path / "data", cards_dir=cards, workers=1).dataset
    exported = hugging_face.load_from_disk(export_hugging_face(dataset, tmp_path / "hf"))
    assert exported["test"][0]["mask"] is None
    assert exported["test"][0]["place"] == -1
    out = export_image_folder(dataset, tmp_path / "out")
    assert sorted(path.suffix for path in out.rglob("*.png")) == [".png"] * 16
    assert not (out / "masks").exists()


def test_croissant_is_valid_and_its_records_are_the_samples(dataset: ShardDataset) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: pip install '.[dev]'")
    path = dataset.root / CROISSANT_NAME
    described = mlcroissant.Dataset(str(path))
    assert not described.metadata.issues.errors
    records = list(described.records("samples"))
    assert len(records) == sum(split.count for split in dataset.manifest.splits.values())
    index = dataset.split("test")
    labels = {r["samples/key"]: r["samples/label"] for r in records if r["samples/split"] in ("test", b"test")}
    labels = {key.decode() if isinstance(key, bytes) else key: label for key, label in labels.items()}
    assert labels == dict(zip(index.keys, index.label.tolist(), strict=True))
    content = croissant(dataset.card, dataset.manifest)
    assert json.loads(path.read_text()) == content
    files = {entry["contentUrl"]: entry["sha256"] for entry in content["distribution"]}
    assert all(files[shard.file] == shard.sha256 for shard in dataset.manifest.shards)
