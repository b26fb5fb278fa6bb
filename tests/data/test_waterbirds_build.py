import csv
import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_raw import SIZE, SPECIES

from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.layouts.waterbirds import CATEGORIES, _draw_places, _draw_scenes, is_waterbird
from aimbench.data.samples import compose, cover, decode_rgb, encode_jpeg
from aimbench.errors import DataError


def build_95(raw: Path, data_root: Path, variant: str = "95", **options: object) -> ShardDataset:
    return build(f"waterbirds@{variant}", raw, data_root, partial=True, workers=1, **options).dataset  # type: ignore[arg-type]


def metadata(dataset: ShardDataset) -> list[dict[str, str]]:
    with (dataset.root / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_species_rule_with_its_accidental_matches() -> None:
    assert is_waterbird("001.Black_footed_Albatross")
    assert is_waterbird("086.Pacific_Loon")
    assert not is_waterbird("085.Horned_Lark")
    for landbird in ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee"):
        assert is_waterbird(landbird)
        assert not is_waterbird(landbird, "corrected")
    assert is_waterbird("066.Western_Gull", "corrected")


@pytest.mark.parametrize(
    "species",
    [
        "007.Parakeet_Auklet",
        "024.Red_faced_Cormorant",
        "044.Frigatebird",
        "045.Northern_Fulmar",
        "046.Gadwall",
        "052.Pied_billed_Grebe",
        "058.Pigeon_Guillemot",
        "059.California_Gull",
        "071.Long_tailed_Jaeger",
        "084.Red_legged_Kittiwake",
        "087.Mallard",
        "089.Hooded_Merganser",
        "100.Brown_Pelican",
        "106.Horned_Puffin",
        "141.Artic_Tern",
    ],
)
def test_the_waterbirds_of_the_authors_list(species: str) -> None:
    assert is_waterbird(species)
    assert is_waterbird(species, "corrected")


@pytest.mark.parametrize("seed", [0, 1])
def test_places_have_the_published_counts(seed: int) -> None:
    # Class counts of the release; its group counts are published (Sagawa et al. 2020, table of Waterbirds).
    sizes = {(0, 0): 3682, (0, 1): 1113, (1, 0): 933, (1, 1): 266, (2, 0): 4510, (2, 1): 1284}
    splits, labels = [], []
    for (split, y), size in sizes.items():
        splits += [split] * size
        labels += [y] * size
    places = _draw_places(labels, splits, 0.95, np.random.default_rng(seed))
    groups = Counter((s, 2 * y + p) for s, y, p in zip(splits, labels, places, strict=True))
    assert [groups[0, g] for g in range(4)] == [3498, 184, 56, 1057]
    assert [groups[1, g] for g in range(4)] == [467, 466, 133, 133]
    assert [groups[2, g] for g in range(4)] == [2255, 2255, 642, 642]


def test_places_are_drawn_from_all_birds_of_a_class() -> None:
    # As many of the first half as of the second: CUB lists birds by species, and a species must not have one place.
    places = _draw_places([0] * 1000, [1] * 1000, 0.95, np.random.default_rng(0))
    assert sum(places) == 500
    assert 200 < sum(places[:500]) < 300


def test_each_bird_has_a_scene_of_its_own_while_there_are_enough(raw: Path) -> None:
    folder = raw / "places365" / "data_large"  # 24 scenes of either place
    scenes, notes = _draw_scenes(folder, CATEGORIES, [0, 1] * 24, np.random.default_rng(0))
    for place, pairs in enumerate((scenes[::2], scenes[1::2])):
        names = [name for name, _ in pairs]
        assert len(set(names)) == 24
        assert names != sorted(names), "they are drawn, not taken in order"
        assert all(name.startswith(("/b/", "/f/") if place == 0 else ("/o/", "/l/")) for name in names)
    assert notes == []
    scenes, notes = _draw_scenes(folder, CATEGORIES, [1] * 49, np.random.default_rng(0))
    assert sorted(Counter(name for name, _ in scenes).values()) == [2] * 23 + [3]
    assert notes == ["24 water scenes for 49 birds: scenes repeat"]


def test_release_is_named_where_it_is_absent(raw: Path, data_root: Path) -> None:
    with pytest.raises(DataError) as caught:
        build("waterbirds@95", raw, data_root, workers=1)
    for part in ("waterbird_complete95_forest2water2.tar.gz", "waterbirds@95-regenerated", "--partial"):
        assert part in str(caught.value)


def test_partial_build_falls_back_and_says_so(raw: Path, data_root: Path) -> None:
    dataset = build_95(raw, data_root)
    assert dataset.manifest.kind == "partial"
    assert "regenerated with seed 0" in dataset.manifest.notes[0]
    rows = metadata(dataset)
    assert list(rows[0]) == ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    assert len(rows) == 42
    by_key = {Path(row["img_filename"]).stem: row for row in rows}
    for number, split in enumerate(("train", "val", "test")):
        index = dataset.split(split)
        for i, key in enumerate(index.keys):
            row = by_key[key]
            assert int(row["split"]) == number
            assert int(row["y"]) == index.label[i] == is_waterbird(row["img_filename"])
            assert int(row["place"]) == index.place[i]
            assert index.group[i] == 2 * index.label[i] + index.place[i]
            water = row["place_filename"].startswith(("/o/ocean/", "/l/lake/natural/"))
            assert water == bool(index.place[i])
            assert (raw / "places365" / "data_large" / row["place_filename"].lstrip("/")).is_file()


def test_a_part_without_landbirds_is_built(raw: Path, data_root: Path) -> None:
    table = raw / "CUB_200_2011" / "images.txt"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if "Wren" not in line) + "\n")
    dataset = build_95(raw, data_root)
    assert {split: sum(index.groups.values()) for split, index in dataset.manifest.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 8,
    }
    assert dataset.manifest.splits["test"].classes == {"landbird": 0, "waterbird": 8}


def test_hundred_percent_has_no_minority_in_train(raw: Path, data_root: Path) -> None:
    dataset = build_95(raw, data_root, "100")
    train = dataset.split("train")
    assert (train.place == train.label).all()
    test = dataset.split("test")
    assert set(test.group.tolist()) == {0, 1, 2, 3}


def test_composite_is_the_bird_on_the_place(raw: Path, data_root: Path) -> None:
    dataset = build_95(raw, data_root)
    test = dataset.split("test")
    row = next(row for row in metadata(dataset) if Path(row["img_filename"]).stem == test.keys[0])
    composite = decode_rgb(test.read(0).image, "composite").astype(int)
    bird = np.asarray(Image.open(raw / "CUB_200_2011" / "images" / row["img_filename"])).astype(int)
    place = Image.open(raw / "places365" / "data_large" / row["place_filename"].lstrip("/"))
    # PIL's plain resize of the centred square crop's central rows is the independent reference.
    resized = np.asarray(place.resize((SIZE[0], SIZE[0]), Image.Resampling.LANCZOS)).astype(int)[5:35]
    assert composite.shape == bird.shape
    assert abs(composite[7:18, 12:18] - bird[7:18, 12:18]).mean() < 12
    outside = np.ones(composite.shape[:2], dtype=bool)
    outside[2:23, 7:23] = False
    assert abs(composite[outside] - resized[outside]).mean() < 12
    assert abs(composite[outside] - bird[outside]).mean() > 30


def test_compose_weighs_by_the_mask() -> None:
    bird, place = np.full((1, 4, 3), 200, np.uint8), np.full((1, 4, 3), 100, np.uint8)
    out = compose(bird, np.array([[1.0, 0.0, 0.25, 0.257]]), place)
    assert out[0, :, 0].tolist() == [200, 100, 125, 126]  # 125.7 is rounded, not cut


def test_composites_are_jpegs_of_quality_95() -> None:
    with Image.open(io.BytesIO(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))) as image:
        # A tenth of the standard's luminance table, 16 11 10 16 24 40, rounded.
        assert image.quantization[0][:6] == [2, 1, 1, 2, 2, 4]


def test_cover_crops_the_centre_and_keeps_the_aspect() -> None:
    scene = np.zeros((40, 100, 3), np.uint8)
    scene[:, 30:70] = 255  # a square amid a wide scene is all that a square target shows
    assert cover(Image.fromarray(scene), 20, 20)[:, 2:-2].min() > 250


def write_release(raw: Path, regenerated: ShardDataset) -> Path:
    """The regenerated images, laid out as the official tarball lays its own."""
    release = raw / "waterbird_complete95_forest2water2"
    release.mkdir()
    (release / "metadata.csv").write_bytes((regenerated.root / "metadata.csv").read_bytes())
    files = {Path(row["img_filename"]).stem: row["img_filename"] for row in metadata(regenerated)}
    for split in regenerated.splits:
        index = regenerated.split(split)
        for i in range(len(index)):
            item = index.read(i)
            path = release / files[item.key]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(item.image)
    return release


def test_release_folder_is_read_and_masks_are_joined(raw: Path, data_root: Path, tmp_path: Path) -> None:
    regenerated = build_95(raw, data_root, "95-regenerated")
    write_release(raw, regenerated)
    dataset = build_95(raw, tmp_path / "released")
    assert "waterbirds_95: folder waterbird_complete95_forest2water2" in dataset.manifest.source_forms
    assert dataset.manifest.kind == "partial"  # 42 images are not the release
    assert dataset.manifest.fingerprint == regenerated.manifest.fingerprint
    with pytest.raises(DataError, match=r"train has 24 samples, not 4795; .*--partial"):
        build("waterbirds@95", raw, tmp_path / "other", workers=1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (",place,", ",plaice,", "no column 'place'"),
        ("\n7,", "\nseven,", "line 8: not a whole row"),
        (",001", ",../001", "lies outside"),
    ],
)
def test_broken_release_metadata(raw: Path, data_root: Path, tmp_path: Path, old: str, new: str, expected: str) -> None:
    release = write_release(raw, build_95(raw, data_root, "95-regenerated"))
    table = release / "metadata.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=expected):
        build_95(raw, tmp_path / "other")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [(2, "2", "y is 2, not 0 to 1"), (3, "3", "split is 3, not 0 to 2"), (4, "-1", "place is -1, not 0 to 1")],
)
def test_release_values_outside_their_range(
    raw: Path, data_root: Path, tmp_path: Path, column: int, value: str, expected: str
) -> None:
    release = write_release(raw, build_95(raw, data_root, "95-regenerated"))
    rows = (release / "metadata.csv").read_text().splitlines()
    first = rows[1].split(",")
    first[column] = value
    (release / "metadata.csv").write_text("\n".join([rows[0], ",".join(first), *rows[2:]]) + "\n")
    with pytest.raises(DataError, match=f"line 2: {expected}"):
        build_95(raw, tmp_path / "other")


def test_release_mask_that_is_absent(raw: Path, data_root: Path, tmp_path: Path) -> None:
    write_release(raw, build_95(raw, data_root, "95-regenerated"))
    for mask in (raw / "segmentations" / SPECIES[0]).iterdir():
        mask.unlink()
    (raw / "CUB_200_2011").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no mask for 001\.Herring_Gull"):
        build_95(raw, tmp_path / "other")


def test_seed_changes_the_pairing(raw: Path, data_root: Path, tmp_path: Path) -> None:
    assert metadata(build_95(raw, data_root)) == metadata(build_95(raw, tmp_path / "again"))
    assert metadata(build_95(raw, data_root)) != metadata(build_95(raw, tmp_path / "other", seed=1))


def test_corrected_relabels_the_release_before_the_same_places(raw: Path, data_root: Path, tmp_path: Path) -> None:
    write_release(raw, build_95(raw, data_root, "95-regenerated"))
    official = build_95(raw, tmp_path / "a", "95")
    corrected = build_95(raw, tmp_path / "b", "corrected")
    towhees = 0
    for split in official.splits:
        old, new = official.split(split), corrected.split(split)
        assert old.keys == new.keys
        assert old.place.tolist() == new.place.tolist()
        for i, key in enumerate(old.keys):
            if "Eastern_Towhee" in key:
                towhees += 1
                assert (old.label[i], new.label[i], new.group[i]) == (1, 0, new.place[i])
            else:
                assert (old.label[i], old.group[i]) == (new.label[i], new.group[i])
            assert old.read(i).image == new.read(i).image
    assert towhees == 14
    assert corrected.manifest.notes[0] == "14 landbirds relabelled that the release has as waterbirds"


def test_corrected_falls_back_to_its_own_regeneration(raw: Path, data_root: Path) -> None:
    dataset = build_95(raw, data_root, "corrected")
    assert "corrected species rule" in dataset.manifest.notes[0]
    assert not any(int(row["y"]) for row in metadata(dataset) if "Towhee" in row["img_filename"])


def test_other_scenes_are_an_option_of_a_card(raw: Path, data_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(raw, folder)
    scenes = next(path for path in folder.rglob("data_large") if path.is_dir())
    (scenes / "s").mkdir()
    (scenes / "m").mkdir()
    (scenes / "o" / "ocean").rename(scenes / "s" / "street")
    (scenes / "l" / "lake" / "natural").rename(scenes / "m" / "mountain")
    cards = Path(__file__).parents[2] / "docs" / "cards"
    dataset = build("streetbirds", folder, data_root, partial=True, workers=1, cards_dir=cards).dataset
    assert dataset.manifest.places == ["street", "mountain"]
    by_key = {Path(row["img_filename"]).stem: row["place_filename"] for row in metadata(dataset)}
    train = dataset.split("train")
    for key, place in zip(train.keys, train.place, strict=True):
        assert by_key[key].startswith(("/s/street/", "/m/mountain/")[place])
