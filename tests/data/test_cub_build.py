import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_raw import SPECIES, TEST, TRAIN, write_image

from aimbench.cards import load_card
from aimbench.data.build import build
from aimbench.data.counts import differences
from aimbench.data.dataset import ShardDataset
from aimbench.data.layouts.cub_tables import Bird, stratified_validation
from aimbench.data.manifest import SplitSummary
from aimbench.data.samples import decode_mask
from aimbench.errors import DataError


def build_cub(raw: Path, data_root: Path, **options: object) -> ShardDataset:
    return build("cub", raw, data_root, partial=True, workers=1, **options).dataset  # type: ignore[arg-type]


def test_samples_are_the_raw_files(raw: Path, data_root: Path) -> None:
    dataset = build_cub(raw, data_root)
    assert dataset.manifest.kind == "partial"
    assert dataset.manifest.classes == list(SPECIES)
    counts = {split: summary.count for split, summary in dataset.manifest.splits.items()}
    assert counts == {"train": 3 * (TRAIN - 2), "val": 3 * 2, "test": 3 * TEST}
    assert dataset.manifest.splits["val"].classes == dict.fromkeys(SPECIES, 2)
    test = dataset.split("test")
    for i in range(len(test)):
        item = test.read(i)
        files = list((raw / "CUB_200_2011" / "images").rglob(f"{item.key}.jpg"))
        assert item.image == files[0].read_bytes()
        assert files[0].parent.name == SPECIES[test.label[i]]
        assert item.boxes == [(10.0, 5.0, 20.0, 20.0)]
        assert item.mask is not None
        mask = decode_mask(item.mask, "mask")
        assert mask.shape == (30, 40)
        assert set(np.unique(mask)) == {0, 255}
        # 15 x 10 pixels; the row of two annotators in five is not foreground
        assert (mask > 0).sum() == 150
    assert dataset.manifest.ground_truth.mean_foreground_share == pytest.approx(150 / 1200)


def test_test_split_is_the_official_flag(raw: Path, data_root: Path) -> None:
    dataset = build_cub(raw, data_root)
    lines = (raw / "CUB_200_2011" / "images.txt").read_text().splitlines()
    flags = (raw / "CUB_200_2011" / "train_test_split.txt").read_text().splitlines()
    official = {Path(line.split()[1]).stem for line, flag in zip(lines, flags, strict=True) if flag.split()[1] == "0"}
    assert set(dataset.split("test").keys) == official


def test_validation_follows_from_the_seed_and_not_from_the_order_of_the_list() -> None:
    birds = [
        Bird(i, f"{i % 4}/{i}.jpg", i % 4, i % 10 < 7, (0.0, 0.0, 1.0, 1.0), Path("a"), Path("b")) for i in range(400)
    ]
    drawn = stratified_validation(birds, 0.2, seed=3)
    assert drawn == stratified_validation(birds[::-1], 0.2, seed=3)
    assert drawn != stratified_validation(birds, 0.2, seed=4)
    assert all(birds[number].in_train for number in drawn)
    # A fifth of the 80, 60, 80 and 60 of each species in train.
    assert [sum(number % 4 == label for number in drawn) for label in range(4)] == [16, 12, 16, 12]


def test_official_build_of_a_part_is_refused(raw: Path, data_root: Path) -> None:
    with pytest.raises(DataError) as caught:
        build("cub", raw, data_root, workers=1)
    message = str(caught.value)
    assert "3 classes, not 200" in message
    assert "test has 12 samples, not 5794" in message
    assert "--partial" in message
    assert not (data_root / "cub" / "official").exists()


@pytest.mark.parametrize(("val", "phrases"), [(1194, []), (1193, ["train+val has 5993 samples, not 5994"])])
def test_train_and_val_together_are_cubs_train(val: int, phrases: list[str]) -> None:
    names = [str(i) for i in range(200)]
    found = {
        split: SplitSummary(count=count, classes=dict.fromkeys(names, 1), groups={})
        for split, count in (("train", 4800), ("val", val), ("test", 5794))
    }
    assert differences(load_card("cub"), "official", names, found) == phrases


def test_species_without_masks(raw: Path, data_root: Path) -> None:
    for mask in (raw / "segmentations" / SPECIES[1]).iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"no mask for 14 photographs of 1 species \(002\.House_Wren"):
        build_cub(raw, data_root)


@pytest.mark.parametrize("size", [(40, 31), (80, 60)])  # not even one of the same shape is scaled
def test_mask_of_another_size(raw: Path, data_root: Path, size: tuple[int, int]) -> None:
    mask = sorted((raw / "segmentations" / SPECIES[0]).iterdir())[0]
    write_image(mask, 0, size)
    with pytest.raises(DataError, match=f"is {size[0]}x{size[1]}, its image 40x30") as caught:
        build_cub(raw, data_root)
    assert mask.stem in str(caught.value)


def test_truncated_jpeg(raw: Path, data_root: Path) -> None:
    image = sorted((raw / "CUB_200_2011" / "images" / SPECIES[2]).iterdir())[3]
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(DataError, match="corrupt or truncated") as caught:
        build_cub(raw, data_root)
    assert image.name in str(caught.value)
    assert list((data_root / "cub").iterdir()) == []


def test_error_in_a_worker_process_reaches_the_caller(raw: Path, data_root: Path) -> None:
    image = sorted((raw / "CUB_200_2011" / "images" / SPECIES[2]).iterdir())[3]
    image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=image.stem):
        build("cub", raw, data_root, partial=True, workers=2)


def test_label_outside_the_classes(raw: Path, data_root: Path) -> None:
    table = raw / "CUB_200_2011" / "image_class_labels.txt"
    table.write_text(table.read_text().replace("\n5 1\n", "\n5 4\n"))
    with pytest.raises(DataError, match=r"image 5 has label 4, but classes\.txt has 1 to 3"):
        build_cub(raw, data_root)


def test_path_that_leads_out_of_the_folder(raw: Path, data_root: Path) -> None:
    table = raw / "CUB_200_2011" / "images.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(["1 ../../../../etc/hostname.jpg", *lines[1:]]) + "\n")
    with pytest.raises(DataError, match="lies outside"):
        build_cub(raw, data_root)


def test_malformed_line_is_named(raw: Path, data_root: Path) -> None:
    table = raw / "CUB_200_2011" / "bounding_boxes.txt"
    table.write_text(table.read_text().replace("\n3 10.0 5.0 10.0 15.0\n", "\n3 10.0 5.0 10.0\n"))
    with pytest.raises(DataError, match=r"bounding_boxes\.txt, line 3"):
        build_cub(raw, data_root)


def test_a_number_that_is_there_twice_is_named(raw: Path, data_root: Path) -> None:
    table = raw / "CUB_200_2011" / "image_class_labels.txt"
    table.write_text(table.read_text().replace("\n4 1\n", "\n3 2\n"))
    with pytest.raises(DataError, match=r"image_class_labels\.txt, line 4: '3 2' is not '<new id>"):
        build_cub(raw, data_root)


def test_missing_archives_are_all_listed(tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        build("cub", tmp_path / "empty", data_root)
    message = str(caught.value)
    for part in (
        "CUB_200_2011.tgz",
        "segmentations.tgz",
        "https://data.caltech.edu",
        "97eceeb196236b17998738112f37df78",
    ):
        assert part in message


def test_archives_build_the_same_as_folders(
    raw: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_folders = build_cub(raw, data_root)
    archives = tmp_path / "archives"
    archives.mkdir()
    for name in ("CUB_200_2011", "segmentations"):
        with tarfile.open(archives / f"{name}.tgz", "w:gz") as tar:
            tar.add(raw / name, name)
    with pytest.raises(DataError, match=r"md5 is [0-9a-f]{32}, the card says 97ec"):
        build_cub(archives, tmp_path / "other")

    monkeypatch.setattr("aimbench.data.archives._expected", lambda source: iter([("sha256", None)]))
    from_archives = build_cub(archives, tmp_path / "other")
    assert from_archives.manifest.fingerprint == from_folders.manifest.fingerprint
    assert from_archives.manifest.source_forms == [
        "cub: archive CUB_200_2011.tgz",
        "segmentations: archive segmentations.tgz",
    ]


def test_same_raw_is_not_built_twice_and_other_raw_needs_force(raw: Path, data_root: Path) -> None:
    first = build("cub", raw, data_root, partial=True, workers=1)
    again = build("cub", raw, data_root, partial=True, workers=1)
    assert (first.built, again.built) == (True, False)
    with pytest.raises(DataError, match="add --force"):
        build_cub(raw, data_root, seed=5)
    other = build_cub(raw, data_root, seed=5, force=True)
    assert other.manifest.seed == 5
    assert set(other.split("test").keys) == set(first.dataset.split("test").keys)
    assert [path.name for path in (data_root / "cub").iterdir()] == ["official"]


def test_killed_build_is_not_a_build(raw: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aimbench.data.assemble._finish", killed)
    with pytest.raises(KeyboardInterrupt):
        build_cub(raw, data_root)
    with pytest.raises(DataError, match="is not built"):
        ShardDataset.open("cub", data_root)


def test_json_in_the_shard_says_what_the_sample_is(raw: Path, data_root: Path) -> None:
    dataset = build_cub(raw, data_root)
    index = dataset.split("val")
    with tarfile.open(index.shard_paths[0]) as tar:
        content = tar.extractfile(f"{index.keys[0]}.json")
        assert content is not None
        meta = json.load(content)
    assert meta["label"] == index.label[0] == meta["group"]
    assert meta["place"] == -1
    assert (meta["width"], meta["height"]) == (40, 30)
    assert (raw / "CUB_200_2011" / "images" / meta["source"]).is_file()


@pytest.mark.raw
@pytest.mark.slow
def test_real_photographs(tmp_path: Path, raw_photographs: Path) -> None:
    dataset = build("cub", raw_photographs, tmp_path, partial=True).dataset
    listed = len((raw_photographs / "CUB_200_2011" / "images.txt").read_text().splitlines())
    assert sum(split.count for split in dataset.manifest.splits.values()) == listed
