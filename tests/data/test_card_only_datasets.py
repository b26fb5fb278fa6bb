"""Datasets of one's own by a card alone: CSV metadata and Hugging Face datasets (image folders: test_image_folder)."""

import csv
import io
from pathlib import Path
from typing import Any

import datasets as hugging_face
import numpy as np
import pytest
from PIL import Image
from tiny_raw import write_image
from tiny_tree import write_card

from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.samples import decode_mask
from aimbench.data.verify import verify
from aimbench.errors import CardError, DataError

GROUPS = ["cat inside", "cat outside", "dog inside", "dog outside"]
COLUMNS = ("file", "animal", "where", "part", "mask", "x0", "y0", "x1", "y1")
CSV_OPTIONS: dict[str, Any] = {
    "file": "all.csv",
    "image": "file",
    "label": "animal",
    "place": "where",
    "places": ["inside", "outside"],
    "split": "part",
    "splits": {"0": "train", "1": "val", "2": "test"},
    "mask": "mask",
    "boxes": ["x0", "y0", "x1", "y1"],
}


def build_mine(root: Path, layout: str, options: dict[str, Any], **changes: Any) -> ShardDataset:
    cards = write_card(root, {"layout": layout, "options": options}, **{"groups": GROUPS, **changes})
    return build("mine", root / "raw", root / "data", cards_dir=cards, workers=1).dataset


def write_csv(root: Path, edit: Any = None) -> list[dict[str, Any]]:
    folder = root / "raw" / "mine"
    rows: list[dict[str, Any]] = []
    for i in range(12):
        animal, where = ("cat", "dog")[i % 2], ("inside", "outside")[i // 2 % 2]
        file = f"pictures/{animal} {i}.png"
        write_image(folder / file, 20 + i)
        mask = f"masks/{i}.png" if i != 3 else ""
        if mask:
            pixels = np.zeros((30, 40), dtype=np.uint8)
            pixels[: i + 1] = 255
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / mask)
        box = {4: ("", "", "", ""), 7: (1, 2, "", 20)}.get(i, (1, 2, 10 + i, 20))  # an empty cell: no box
        values = (file, animal, where, str(i % 3), mask, *box)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    if edit:
        edit(rows)
    with (folder / "all.csv").open("w", newline="") as file_:
        writer = csv.DictWriter(file_, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_csv(tmp_path: Path) -> None:
    rows = write_csv(tmp_path)
    dataset = build_mine(tmp_path, "csv", CSV_OPTIONS)
    verify(dataset)
    assert dataset.splits == ("train", "val", "test")
    for number, split in enumerate(dataset.splits):
        index = dataset.split(split)
        wanted = {row["file"]: row for row in rows if row["part"] == str(number)}
        assert len(index) == len(wanted)
        for i, key in enumerate(index.keys):
            row = wanted[key.replace("pictures__", "pictures/") + ".png"]
            item = index.read(i)
            assert item.image == (tmp_path / "raw" / "mine" / row["file"]).read_bytes()
            assert dataset.manifest.classes[index.label[i]] == row["animal"]
            assert dataset.manifest.groups[index.group[i]] == f"{row['animal']} {row['where']}"
            assert item.boxes == ([(1.0, 2.0, float(row["x1"]), 20.0)] if row["x1"] else [])
            assert (item.mask is None) == (row["mask"] == "")
            if item.mask is not None:
                assert (decode_mask(item.mask, key) > 0).sum() == 40 * (int(row["mask"][6:-4]) + 1)
    assert dataset.manifest.ground_truth.share_with_mask == pytest.approx(11 / 12)
    # Of 30 rows the masks cover 1 to 12, without the fourth, which has none.
    assert dataset.manifest.ground_truth.mean_foreground_share == pytest.approx((78 - 4) / 30 / 11, abs=1e-6)


def test_a_csv_as_spreadsheets_save_it(tmp_path: Path) -> None:
    write_csv(tmp_path)
    plain = build_mine(tmp_path, "csv", CSV_OPTIONS).manifest.fingerprint
    table = tmp_path / "raw" / "mine" / "all.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    again = build("mine", tmp_path / "raw", tmp_path / "again", cards_dir=tmp_path / "cards", workers=1).dataset
    assert again.manifest.fingerprint == plain


def test_csv_with_a_group_column_or_classes_as_groups(tmp_path: Path) -> None:
    write_csv(tmp_path, lambda rows: [row.update(where=f"{row['animal']} {row['where']}") for row in rows])
    options = {**CSV_OPTIONS, "place": None, "places": [], "group": "where"}
    train = build_mine(tmp_path, "csv", options).split("train")
    assert set(train.group.tolist()) <= {0, 1, 2, 3}
    assert (train.group // 2 == train.label).all()
    write_csv(tmp_path / "b")
    train = build_mine(tmp_path / "b", "csv", {**CSV_OPTIONS, "place": None}, groups="classes").split("train")
    assert (train.group == train.label).all()
    assert (train.place == -1).all()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("animal", "cow", r"line 4: animal is 'cow', which is no class; did you mean 'cat'\?|known"),
        ("animal", "2", "line 4: animal is '2', which is no class"),
        ("where", "", "line 4: where is '', which is no place"),
        ("part", "3", "line 4: part is '3'"),
        ("file", "../../secret.png", "lies outside"),
        ("file", "/etc/passwd", "lies outside"),
        ("mask", "../../../secret.png", "lies outside"),
        ("file", "pictures/none.png", r"none\.png is missing"),
        ("file", "", "line 4: no image is named"),
        ("file", "pictures/cat 0.png", r"two samples of test have the name pictures__cat 0: pictures/cat 0\.png and"),
        ("x0", "one", "line 4: x0, y0, x1, y1 are not four numbers"),
        ("x0", "100", "lies outside its 40x30 image"),
        ("x0", "nan", "test sample .*: a box .* has a side that is no number"),
        ("file", "pictures", r"pictures can't be read \(Is a directory\)"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, column: str, value: str, expected: str) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[2][column] = value
        rows[0]["part"] = "2"  # the split of line 4

    write_csv(tmp_path, edit)
    with pytest.raises(DataError, match=expected) as caught:
        build_mine(tmp_path, "csv", CSV_OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("split", "named"), [("0", "train"), ("1", "val"), ("2", "test")])
def test_a_table_without_one_of_the_cards_splits_is_not_whole(tmp_path: Path, split: str, named: str) -> None:
    def leave_out(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["part"] != split]

    write_csv(tmp_path, leave_out)
    with pytest.raises(DataError, match=f"not whole: {named} has no sample;"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)


@pytest.mark.parametrize(("split", "named"), [("0", "train"), ("2", "test")])
def test_a_split_without_one_of_the_classes_is_not_whole(tmp_path: Path, split: str, named: str) -> None:
    def leave_out(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if (row["part"], row["animal"]) != (split, "dog")]

    write_csv(tmp_path, leave_out)
    with pytest.raises(DataError, match=f"not whole: {named} has no sample of 1 classes, the first dog;"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)


def test_a_misspelt_split_is_named_with_its_line(tmp_path: Path) -> None:
    names = {"0": "train", "1": "val", "2": "tset"}
    write_csv(tmp_path, lambda rows: [row.update(part=names[row["part"]]) for row in rows])
    with pytest.raises(DataError, match=r"all\.csv, line 4: part is 'tset'; did you mean 'test'"):
        build_mine(tmp_path, "csv", {**CSV_OPTIONS, "splits": {}})


def test_an_empty_column_of_masks_is_not_whole(tmp_path: Path) -> None:
    write_csv(tmp_path, lambda rows: [row.update(mask="") for row in rows])
    with pytest.raises(DataError, match=r"not whole: column 'mask' of all\.csv names no mask;"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)


def test_csv_that_is_none(tmp_path: Path) -> None:
    write_csv(tmp_path)
    table = tmp_path / "raw" / "mine" / "all.csv"
    text = table.read_text()
    table.write_text(text.replace("animal", "animals", 1))
    with pytest.raises(DataError, match="has no column 'animal'; did you mean 'animals'"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)
    table.write_text(text + "only,three,values\n")
    with pytest.raises(DataError, match="line 14: not 9 values"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="can't be read as CSV"):
        build_mine(tmp_path, "csv", CSV_OPTIONS)


def test_groups_that_follow_from_nothing(tmp_path: Path) -> None:
    write_csv(tmp_path)
    with pytest.raises(CardError, match="its 4 groups follow from no column"):
        build_mine(tmp_path, "csv", {**CSV_OPTIONS, "place": None})
    with pytest.raises(CardError, match=r"classes x places \(2 x 2\)"):
        build_mine(tmp_path, "csv", CSV_OPTIONS, groups=GROUPS[:3])


def test_some_of_the_four_columns_of_a_box_are_not_left_aside(tmp_path: Path) -> None:
    write_csv(tmp_path)
    with pytest.raises(CardError, match=r"option 'boxes' names 3 columns; name those of x0, y0, x1 and y1, or none"):
        build_mine(tmp_path, "csv", {**CSV_OPTIONS, "boxes": ["x0", "y0", "x1"]})


def test_places_of_no_stated_order_name_no_groups(tmp_path: Path) -> None:
    write_csv(tmp_path)
    with pytest.raises(CardError, match=r"list options\.places in the order .*\(found: inside, outside\)"):
        build_mine(tmp_path, "csv", {**CSV_OPTIONS, "places": []})
    write_csv(tmp_path, lambda rows: [row.update(where=str(9 + i % 2)) for i, row in enumerate(rows)])
    dataset = build_mine(tmp_path, "csv", {**CSV_OPTIONS, "places": []}, groups="classes")
    assert dataset.manifest.places == ["9", "10"]


@pytest.mark.parametrize(("kept", "noted"), [(11, False), (5, True), (0, None)])
def test_masks_that_are_empty(tmp_path: Path, kept: int, noted: bool | None) -> None:
    write_csv(tmp_path)
    masks = sorted((tmp_path / "raw" / "mine" / "masks").iterdir())
    assert len(masks) == 11
    single = np.zeros((30, 40), dtype=np.uint8)
    single[0, 0] = 255
    Image.fromarray(single).save(masks[0])  # one pixel is not empty
    for path in masks[kept:]:
        Image.fromarray(np.ones((30, 40), dtype=np.uint8)).save(path)  # of 0 and 1, as segmentations often are
    if noted is None:
        with pytest.raises(DataError, match=r"all 11 masks are empty; .* need mask_threshold: 0\.002"):
            build_mine(tmp_path, "csv", CSV_OPTIONS)
        dataset = build_mine(tmp_path, "csv", {**CSV_OPTIONS, "mask_threshold": 0.002})
        assert dataset.manifest.ground_truth.empty_masks == 0
    else:
        manifest = build_mine(tmp_path, "csv", CSV_OPTIONS).manifest
        assert manifest.ground_truth.empty_masks == 11 - kept
        notes = manifest.notes
        assert [note for note in notes if "6 of 11 masks are empty" in note] == notes[: int(noted)]


# Hugging Face --------------------------------------------------------------------------------------------------------

HF_OPTIONS: dict[str, Any] = {
    "splits": {"train": "train", "test": "validation"},
    "validation_share": 0.25,
    "place": "where",
    "mask": "mask",
    "boxes": "boxes",
    "key": "name",
}


def encoded(value: int, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), value, np.uint8)).save(buffer, form)
    return buffer.getvalue()


def rows(count: int, offset: int) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        mask = io.BytesIO()
        Image.fromarray(np.full((30, 40), 255 * (i % 2), np.uint8)).save(mask, "PNG")
        found.append(
            {
                "name": f"n{offset + i}",
                "image": {"bytes": encoded(offset + i, "JPEG" if i % 3 else "PNG"), "path": None},
                "mask": {"bytes": mask.getvalue(), "path": None},
                "label": i % 2,
                "where": i // 2 % 2,
                "boxes": [[0.0, 0.0, 5.0, 5.0]] * (i % 3),
            }
        )
    return found


def tables(names: list[str] = ["cat", "dog"]) -> hugging_face.DatasetDict:  # noqa: B006
    features = hugging_face.Features(
        {
            "name": hugging_face.Value("string"),
            "image": hugging_face.Image(),
            "mask": hugging_face.Image(),
            "label": hugging_face.ClassLabel(names=names),
            "where": hugging_face.ClassLabel(names=["inside", "outside"]),
            "boxes": hugging_face.List(hugging_face.List(hugging_face.Value("float64"))),
        }
    )
    return hugging_face.DatasetDict(
        {
            "train": hugging_face.Dataset.from_list(rows(16, 10), features=features),
            "validation": hugging_face.Dataset.from_list(rows(6, 100), features=features),
        }
    )


@pytest.mark.parametrize("form", ["saved", "parquet", "parquet shards", "converted by the hub"])
def test_hugging_face_folder(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "raw" / "mine"
    if form == "saved":
        tables().save_to_disk(folder)
    elif form == "converted by the hub":
        for split, table in tables().items():
            (folder / "default" / split).mkdir(parents=True)
            for i in range(2):
                table.shard(2, i).to_parquet(folder / "default" / split / f"{i:04d}.parquet")
    else:
        (folder / "data").mkdir(parents=True)
        for split, table in tables().items():
            shards = 2 if "shards" in form else 1
            for i in range(shards):
                table.shard(shards, i).to_parquet(folder / "data" / f"{split}-{i:05d}-of-{shards:05d}.parquet")
    dataset = build_mine(tmp_path, "huggingface", HF_OPTIONS)
    verify(dataset)
    assert {name: split.count for name, split in dataset.manifest.splits.items()} == {"train": 12, "val": 4, "test": 6}
    expected = {row["name"]: row for row in rows(16, 10) + rows(6, 100)}
    for split in dataset.splits:
        index = dataset.split(split)
        for i, key in enumerate(index.keys):
            row, item = expected[key], index.read(i)
            assert item.image == row["image"]["bytes"], "encoded bytes pass through"
            assert (index.label[i], index.place[i]) == (row["label"], row["where"])
            assert index.group[i] == 2 * row["label"] + row["where"]
            assert item.boxes == [tuple(box) for box in row["boxes"]]
            assert item.mask is not None
            assert decode_mask(item.mask, key).max() == (255 if (int(key[1:]) - 10) % 2 else 0)
    assert dataset.manifest.places == ["inside", "outside"]


def test_hugging_face_rows_without_a_mask(tmp_path: Path) -> None:
    made = tables()
    for split in made:
        made[split] = made[split].map(lambda row: {"mask": None if row["where"] else row["mask"]})
    made.save_to_disk(tmp_path / "raw" / "mine")
    train = build_mine(tmp_path, "huggingface", HF_OPTIONS).split("train")
    for i in range(len(train)):
        assert (train.read(i).mask is None) == (train.place[i] == 1)


def test_several_processes_share_the_tables(tmp_path: Path) -> None:
    tables().save_to_disk(tmp_path / "raw" / "mine")
    one = build_mine(tmp_path, "huggingface", HF_OPTIONS).manifest
    cards = tmp_path / "cards"
    two = build("mine", tmp_path / "raw", tmp_path / "other", cards_dir=cards, workers=2).dataset.manifest
    assert one == two


def test_hugging_face_without_names_and_without_places(tmp_path: Path) -> None:
    table = tables().remove_columns(["mask", "where", "boxes", "name"])
    table.save_to_disk(tmp_path / "raw" / "mine")
    options = {"splits": {"train": "train", "test": "validation"}, "validation_share": 0.2}
    dataset = build_mine(tmp_path, "huggingface", options, groups="classes")
    assert sorted(dataset.split("test").keys) == [f"validation-{i:07d}" for i in range(6)]
    assert dataset.manifest.ground_truth.share_with_mask == 0


def test_mirror_of_cub(tmp_path: Path) -> None:
    """The schema of bentrevett/caltech-ucsd-birds-200-2011: class labels by CUB's folders, one flat box a row."""
    species = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    features = hugging_face.Features(
        {
            "image": hugging_face.Image(),
            "label": hugging_face.ClassLabel(names=species),
            "bbox": hugging_face.List(hugging_face.Value("float32")),
        }
    )
    images = [{"bytes": encoded(i, "JPEG"), "path": None} for i in range(10)]
    found = [{"image": image, "label": i % 2, "bbox": [1, 2, 10 + i, 20]} for i, image in enumerate(images)]
    folder = tmp_path / "raw" / "caltech-ucsd-birds-200-2011" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        hugging_face.Dataset.from_list(found, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    dataset = build("cub@parquet", tmp_path / "raw", tmp_path / "data", partial=True, workers=1).dataset
    verify(dataset)
    assert dataset.manifest.classes == species
    assert {name: split.count for name, split in dataset.manifest.splits.items()} == {"train": 8, "val": 2, "test": 10}
    test = dataset.split("test")
    for i, key in enumerate(test.keys):
        row = int(key.removeprefix("test-"))
        assert test.read(i).image == images[row]["bytes"]
        assert test.read(i).boxes == [(1.0, 2.0, 10.0 + row, 20.0)]
        assert test.label[i] == row % 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "wolf"], "class 1 is 'wolf', on the card 'dog'"),
        (["cat", "dog", "wolf"], "has 3 classes, the card 2"),
    ],
)
def test_other_class_names_are_another_dataset(tmp_path: Path, names: list[str], expected: str) -> None:
    tables(names).save_to_disk(tmp_path / "raw" / "mine")
    with pytest.raises(DataError, match=expected):
        build_mine(tmp_path, "huggingface", HF_OPTIONS)


def test_a_row_without_a_label_is_not_one_of_the_last_class(tmp_path: Path) -> None:
    made = tables()  # the hub writes -1 where labels are kept back
    made["validation"] = made["validation"].map(lambda row: {"label": -1 if row["name"] == "n103" else row["label"]})
    made.save_to_disk(tmp_path / "raw" / "mine")
    with pytest.raises(DataError, match="row 3: label is '-1', which is no class"):
        build_mine(tmp_path, "huggingface", HF_OPTIONS)


def test_a_hugging_face_validation_split_follows_the_seed(tmp_path: Path) -> None:
    tables().save_to_disk(tmp_path / "raw" / "mine")
    first = build_mine(tmp_path, "huggingface", HF_OPTIONS)
    drawn = {
        tuple(
            build("mine", tmp_path / "raw", tmp_path / str(seed), cards_dir=tmp_path / "cards", workers=1, seed=seed)
            .dataset.split("val")
            .keys
        )
        for seed in (first.manifest.seed, 1, 2, 3)
    }
    assert tuple(first.split("val").keys) in drawn
    assert len(drawn) > 1


def test_a_mask_threshold_of_the_card_holds_for_tables_too(tmp_path: Path) -> None:
    made = tables()
    grey = encoded(51, "PNG")  # a fifth of 255
    for split in made:
        made[split] = made[split].map(lambda row: {"mask": {"bytes": grey, "path": None}})
    made.save_to_disk(tmp_path / "raw" / "mine")
    dataset = build_mine(tmp_path, "huggingface", {**HF_OPTIONS, "mask_threshold": 0.2})
    assert dataset.manifest.ground_truth.mean_foreground_share == 1


def test_paths_in_a_table_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    write_image(secret, 10)
    (tmp_path / "raw" / "mine" / "data").mkdir(parents=True)
    features = tables()["train"].features
    changed = rows(16, 10)
    changed[5]["image"] = {"bytes": None, "path": str(secret)}
    table = hugging_face.Dataset.from_list(changed, features=features.copy())
    table = table.cast_column("image", hugging_face.Image(decode=False))
    import pyarrow.parquet as pq

    folder = tmp_path / "raw" / "mine" / "data"
    pq.write_table(table.data.table.replace_schema_metadata(None), folder / "train-0.parquet")
    tables()["validation"].to_parquet(folder / "validation-0.parquet")
    with pytest.raises(DataError, match=r"row 5, column 'image' of mine train, .* holds no image bytes"):
        build_mine(tmp_path, "huggingface", HF_OPTIONS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"splits": {"train": "train", "test": "test"}}, "has no split 'test'"),
        ({"image": "img"}, "has no column 'img'; did you mean 'image'"),
        ({"label": "class"}, "has no column 'class'"),
    ],
)
def test_wrong_columns_and_splits(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    tables().save_to_disk(tmp_path / "raw" / "mine")
    with pytest.raises(DataError, match=expected):
        build_mine(tmp_path, "huggingface", {**HF_OPTIONS, **options})


def test_folder_without_tables(tmp_path: Path) -> None:
    (tmp_path / "raw" / "mine").mkdir(parents=True)
    with pytest.raises(DataError, match="neither a saved dataset nor Parquet files"):
        build_mine(tmp_path, "huggingface", HF_OPTIONS)
    (tmp_path / "raw" / "mine" / "train-0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="can't be opened"):
        build_mine(tmp_path, "huggingface", HF_OPTIONS)
