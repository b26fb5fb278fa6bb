import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_raw import SPECIES, TEST, TRAIN

from aimbench.cards import default_cards_dir
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.layouts.travelingbirds import _draw
from aimbench.data.samples import decode_rgb
from aimbench.errors import DataError


def build_birds(raw: Path, data_root: Path) -> ShardDataset:
    return build("travelingbirds", raw, data_root, partial=True, workers=1).dataset


def test_test_place_is_another_species_training_place(raw: Path, data_root: Path) -> None:
    dataset = build_birds(raw, data_root)
    home = json.loads((dataset.root / "train_places.json").read_text())
    away = json.loads((dataset.root / "test_places.json").read_text())
    assert list(home) == list(away) == sorted(SPECIES)
    assert len(set(home.values())) == len(SPECIES)
    # rolled by one: a species stands where the species before it was trained
    assert [away[s] for s in SPECIES] == [home[SPECIES[i - 1]] for i in range(len(SPECIES))]
    names = dataset.manifest.places
    for split, places in (("train", home), ("val", home), ("test", away), ("test_training_places", home)):
        index = dataset.split(split)
        assert [names[p] for p in index.place] == [f"p/place_{places[SPECIES[label]]}" for label in index.label]


@pytest.mark.parametrize("seed", [42, 7])
def test_places_are_those_of_the_authors_script(raw: Path, data_root: Path, seed: int) -> None:
    """It seeds NumPy's legacy generator, shuffles the list of all scenes and then draws a place for each species."""
    dataset = build("travelingbirds@regenerated", raw, data_root, partial=True, workers=1, seed=seed).dataset
    legacy = np.random.RandomState(seed)
    scenes = list(range(4 * 15))
    legacy.shuffle(scenes)
    drawn = legacy.choice([0, 1, 2, 3], 3, replace=False).tolist()
    assert json.loads((dataset.root / "train_places.json").read_text()) == dict(zip(SPECIES, drawn, strict=True))


def test_scenes_depend_on_the_names_of_the_photographs_and_not_on_their_numbers(
    raw: Path, data_root: Path, tmp_path: Path
) -> None:
    before = build_birds(raw, data_root).manifest.fingerprint
    table = raw / "CUB_200_2011" / "images.txt"
    lines = table.read_text().splitlines()
    eleven, twelve = (lines[i].split()[1] for i in (10, 11))  # test birds of one species, alike in all other tables
    lines[10:12] = [f"11 {twelve}", f"12 {eleven}"]
    table.write_text("\n".join(lines) + "\n")
    assert build_birds(raw, tmp_path / "renumbered").manifest.fingerprint == before


def test_scenes_repeat_only_where_they_are_too_few_and_in_another_order() -> None:
    scenes = [Path(f"{i}.jpg") for i in range(50)]
    drawn = _draw(np.random.RandomState(0), scenes, 120)
    first, second, rest = drawn[:50], drawn[50:100], drawn[100:]
    assert sorted(first) == sorted(second) == sorted(scenes)
    assert len({scenes.index(scene) for scene in rest}) == 20
    assert first != second


def test_splits_hold_the_right_birds(raw: Path, data_root: Path) -> None:
    dataset = build_birds(raw, data_root)
    splits = {split: set(dataset.split(split).keys) for split in dataset.splits}
    assert dataset.splits == ("train", "val", "test", "test_training_places", "test_black")
    assert splits["test"] == splits["test_training_places"] == splits["test_black"]
    assert len(splits["test"]) == len(SPECIES) * TEST
    assert len(splits["train"] | splits["val"]) == len(SPECIES) * TRAIN
    assert not splits["train"] & splits["val"]
    assert not (splits["train"] | splits["val"]) & splits["test"]


def test_composites_show_scenes_of_their_place(raw: Path, data_root: Path) -> None:
    dataset = build_birds(raw, data_root)
    index = dataset.split("test_black")
    for i in range(len(index)):
        pixels = decode_rgb(index.read(i).image, "composite")
        assert pixels[24:, :].max() < 30, "outside the bird it is black, up to JPEG's noise"
        assert pixels[8:18, 12:18].max() > 60
    assert (index.place == -1).all()
    test = dataset.split("test")
    at_home = dataset.split("test_training_places")
    different = [
        decode_rgb(test.read(i).image, "").astype(int) - decode_rgb(at_home.read(i).image, "") for i in range(len(test))
    ]
    assert np.abs(np.array(different)[:, 24:]).mean() > 1


def test_too_few_places(raw: Path, data_root: Path) -> None:
    table = raw / "places365" / "places365_val.txt"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if line.endswith((" 0", " 1"))))
    with pytest.raises(DataError, match="2 place classes for 3 species"):
        build_birds(raw, data_root)


def test_missing_scene_is_named(raw: Path, data_root: Path) -> None:
    shutil.rmtree(raw / "places365" / "val_large")
    (raw / "places365" / "val_large").mkdir()
    with pytest.raises(DataError, match=r"Places365_val_\d+\.jpg is missing"):
        build_birds(raw, data_root)


def test_official_composites_are_filtered_by_cubs_split(raw: Path, data_root: Path, tmp_path: Path) -> None:
    generated = build_birds(raw, data_root)
    fixed = raw / "CUB_fixed"
    images = raw / "CUB_200_2011" / "images"
    # As in the release, both folders hold every bird; the bytes tell which folder was read.
    for folder in ("train", "test"):
        shutil.copytree(images, fixed / folder)
        for file in (fixed / folder).rglob("*.jpg"):
            file.write_bytes(file.read_bytes() + folder.encode())
    for name in ("train_places.json", "test_places.json"):
        shutil.copy(generated.root / name, fixed / name)
    dataset = build_birds(raw, tmp_path / "official")
    assert "travelingbirds_fixed: folder CUB_fixed" in dataset.manifest.source_forms
    for split, ending in (
        ("train", b"train"),
        ("val", b"train"),
        ("test", b"test"),
        ("test_training_places", b"train"),
    ):
        index = dataset.split(split)
        assert set(index.keys) == set(generated.split(split).keys)
        assert all(index.read(i).image.endswith(ending) for i in range(len(index)))
        assert index.place.tolist() == generated.split(split).place.tolist()
    assert "no test_random: CUB_random is not in the raw folder" in dataset.manifest.notes
    shutil.copytree(images, raw / "CUB_random")
    for file in (raw / "CUB_random").rglob("*.jpg"):
        file.write_bytes(file.read_bytes() + b"random")
    with_random = build_birds(raw, tmp_path / "random").split("test_random")
    assert set(with_random.keys) == set(generated.split("test").keys)
    assert all(with_random.read(i).image.endswith(b"random") for i in range(len(with_random)))
    assert (with_random.place == -1).all()
    # Without CUB_black the black is composed; with it, it is the release's own.
    assert "test_black composed here, which is exact: CUB_black is not in the raw folder" in dataset.manifest.notes
    shutil.copytree(images, raw / "CUB_black")
    for file in (raw / "CUB_black").rglob("*.jpg"):
        file.write_bytes(file.read_bytes() + b"black")
    black = build_birds(raw, tmp_path / "black").split("test_black")
    assert black.keys == generated.split("test_black").keys
    assert all(black.read(i).image.endswith(b"black") for i in range(len(black)))
    assert (black.place == -1).all()
    (fixed / "train_places.json").write_text("{}")
    with pytest.raises(DataError, match=r"train_places\.json does not name one place"):
        build_birds(raw, tmp_path / "broken")


def test_regenerated_is_never_taken_for_the_release(raw: Path, data_root: Path) -> None:
    fallback = build_birds(raw, data_root).manifest
    assert fallback.kind == "partial"
    assert any("regenerated with seed 42" in note for note in fallback.notes)
    with pytest.raises(DataError, match=r"CUB_fixed.*travelingbirds@regenerated"):
        build("travelingbirds", raw, data_root / "whole", workers=1)
    own = build("travelingbirds@regenerated", raw, data_root, partial=True, workers=1).dataset.manifest
    assert own.fingerprint == fallback.fingerprint
    assert any("regenerated with seed 42" in note for note in own.notes)


def shifted_card(places: int, folder: Path) -> Path:
    """Cards folder whose shifted-val borrows so many places; the tiny raw data have three species."""
    text = (default_cards_dir() / "travelingbirds" / "card.yaml").read_text()
    assert "other_places_in_val: 4" in text
    (folder / "travelingbirds").mkdir(parents=True)
    text = text.replace("other_places_in_val: 4", f"other_places_in_val: {places}")
    (folder / "travelingbirds" / "card.yaml").write_text(text)
    return folder


def test_shifted_validation_shows_other_species_training_places(raw: Path, data_root: Path, tmp_path: Path) -> None:
    cards = shifted_card(1, tmp_path / "cards")
    usual = build_birds(raw, data_root)
    shifted = build("travelingbirds@shifted-val", raw, data_root, partial=True, workers=1, cards_dir=cards).dataset
    for split in ("train", "test", "test_training_places", "test_black"):
        assert shifted.split(split).keys == usual.split(split).keys
        assert shifted.split(split).place.tolist() == usual.split(split).place.tolist()
        assert shifted.split(split).read(0).image == usual.split(split).read(0).image
    index, before = shifted.split("val"), usual.split("val")
    assert sorted(key.partition("-before-")[0] for key in index.keys) == sorted(before.keys)
    # Three species: neither one's own place nor its test place leaves one.
    assert index.place.tolist() == [(label + 1) % len(SPECIES) for label in index.label]
    assert shifted.manifest.fingerprint != usual.manifest.fingerprint


def test_black_leaves_nothing_but_the_birds(raw: Path, data_root: Path) -> None:
    usual = build_birds(raw, data_root)
    black = build("travelingbirds@black", raw, data_root, partial=True, workers=1).dataset
    assert black.splits == ("train", "val", "test")
    for split in black.splits:
        index = black.split(split)
        assert sorted(index.keys) == sorted(usual.split(split).keys)
        assert (index.place == -1).all()
        for i in range(len(index)):
            assert decode_rgb(index.read(i).image, "composite")[24:, :].max() < 30
    tests, conditions = black.split("test"), usual.split("test_black")
    of_usual = {key: conditions.read(i).image for i, key in enumerate(conditions.keys)}
    assert {key: tests.read(i).image for i, key in enumerate(tests.keys)} == of_usual


def test_validation_borrows_no_more_places_than_there_are(raw: Path, data_root: Path) -> None:
    with pytest.raises(DataError, match=r"3 species cannot stand before 4 other.*other_places_in_val"):
        build("travelingbirds@shifted-val", raw, data_root, partial=True, workers=1)
