import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_raw import write_image
from tiny_tree import voc, write_card, write_tree

from aimbench.cards import load_card
from aimbench.data.annotations import SolutionBoxes
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.samples import Recipe, render
from aimbench.data.verify import verify
from aimbench.errors import CardError, DataError

WOOF = load_card("imagewoof").variants["full"].options["class_folders"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "raw" / "mine")
    return tmp_path / "raw"


def build_mine(raw: Path, root: Path, variant: dict[str, Any] | None = None, **changes: Any) -> ShardDataset:
    cards = write_card(root, variant, **changes)
    return build("mine", raw, root / "data", cards_dir=cards, workers=1).dataset


def test_folders_are_classes_and_bytes_pass_through(tree: Path, tmp_path: Path) -> None:
    dataset = build_mine(tree, tmp_path)
    assert dataset.manifest.kind == "uncounted"
    counts = {name: split.classes for name, split in dataset.manifest.splits.items()}
    assert counts == {
        "train": {"cat": 6, "dog": 6},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 3, "dog": 3},
    }
    for split in dataset.splits:
        index = dataset.split(split)
        for i, key in enumerate(index.keys):
            name = ("cat", "dog")[index.label[i]]
            folder, stem = key.split("__")
            assert folder == name
            original = tree / "mine" / ("val" if split == "test" else "train") / name / f"{stem}.JPEG"
            assert index.read(i).image == original.read_bytes()


@pytest.mark.parametrize("form", ["tar", "tgz", "zip"])
def test_archives_give_the_same_as_folders(tree: Path, tmp_path: Path, form: str) -> None:
    from_folder = build_mine(tree, tmp_path / "a").manifest
    packed = tmp_path / "packed"
    packed.mkdir()
    if form == "zip":
        with zipfile.ZipFile(packed / "mine.zip", "w") as zipped:
            for path in sorted((tree / "mine").rglob("*.JPEG")):
                zipped.write(path, path.relative_to(tree))
    else:
        with tarfile.open(packed / f"mine.{form}", "w:gz" if form == "tgz" else "w") as tar:
            tar.add(tree / "mine", "mine")
    from_archive = build_mine(packed, tmp_path / "b").manifest
    assert from_archive.fingerprint == from_folder.fingerprint
    assert from_archive.source_forms == [f"images: archive mine.{form}"]


def test_validation_does_not_depend_on_the_order_or_on_other_classes(tree: Path, tmp_path: Path) -> None:
    first = build_mine(tree, tmp_path / "a")
    again = build_mine(tree, tmp_path / "b")
    other_seed = build("mine", tree, tmp_path / "c", seed=1, cards_dir=tmp_path / "a" / "cards", workers=1).dataset
    assert first.split("val").keys == again.split("val").keys
    assert set(first.split("val").keys) != set(other_seed.split("val").keys)
    assert not set(first.split("val").keys) & set(first.split("train").keys)


def test_class_that_is_not_in_the_list(tree: Path, tmp_path: Path) -> None:
    (tree / "mine" / "train" / "dot").mkdir()
    with pytest.raises(DataError, match=r"dot is no class of mine; did you mean .*'dog'.*rename or remove it"):
        build_mine(tree, tmp_path)


def test_class_that_is_absent_makes_a_partial_build(tree: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(tree / "mine" / split / "cat")
    with pytest.raises(DataError, match=r"1 classes, not 2.*--partial"):
        build_mine(tree, tmp_path)
    cards = tmp_path / "cards"
    dataset = build("mine", tree, tmp_path / "data", partial=True, cards_dir=cards, workers=1).dataset
    assert dataset.manifest.kind == "partial"
    assert dataset.manifest.classes == ["dog"]
    assert set(dataset.split("train").label) == {0}
    assert "1 of 2 classes are absent; labels are renumbered" in dataset.manifest.notes


def test_split_folder_that_is_absent(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "mine" / "val")
    with pytest.raises(DataError, match="no folder val for split test"):
        build_mine(tree, tmp_path)


def test_duplicate_keys_name_both_files(tree: Path, tmp_path: Path) -> None:
    first = tree / "mine" / "train" / "cat" / "cat_train0.JPEG"
    Image.open(first).save(first.with_suffix(".png"))
    with pytest.raises(DataError, match=r"name cat__cat_train0: train/cat/cat_train0\.JPEG and .*\.png; .*rename one"):
        build_mine(tree, tmp_path)


def test_names_with_spaces_letters_of_all_kinds_and_dots(tree: Path, tmp_path: Path) -> None:
    names = ("mon chat été.JPEG", "кошка.JPEG", "a.b.c.JPEG", "ねこ 1.JPEG")
    for i, name in enumerate(names):
        write_image(tree / "mine" / "val" / "cat" / name, 100 + i)
    (tree / "mine" / "val" / "cat" / ".DS_Store").write_bytes(b"x")
    (tree / "mine" / "val" / "cat" / "notes.txt").write_text("no image")
    test = build_mine(tree, tmp_path).split("test")
    keys = {f"cat__{Path(name).stem.replace('.', '_')}" for name in names}
    assert keys <= set(test.keys)
    assert len(test) == 6 + len(names)
    import webdataset

    streamed = [s["__key__"] for s in webdataset.WebDataset([str(p) for p in test.shard_paths], shardshuffle=False)]
    assert streamed == test.keys


def test_control_signs_in_a_name_are_refused(tree: Path, tmp_path: Path) -> None:
    write_image(tree / "mine" / "val" / "cat" / "a\nb.JPEG", 100)
    with pytest.raises(DataError, match=r"unprintable sign; rename .*a\\nb\.JPEG"):
        build_mine(tree, tmp_path)


def test_what_is_left_out_of_class_folders_is_said(tree: Path, tmp_path: Path) -> None:
    write_image(tree / "mine" / "train" / "cat" / "more" / "deep.JPEG", 100)
    (tree / "mine" / "val" / "dog" / "notes.txt").touch()
    (tree / "mine" / "val" / "dog" / ".hidden").touch()
    notes = build_mine(tree, tmp_path).manifest.notes
    assert "not taken for images in class folders: 2 files or folders, the first train/cat/more" in notes


def test_a_photograph_in_train_and_test_or_with_two_labels_is_said(tmp_path: Path) -> None:
    tree = tmp_path / "raw" / "mine"
    files = "train/cat/a train/cat/b train/dog/c train/dog/d val/cat/e val/dog/f dev/cat/x dev/dog/y"
    for number, name in enumerate(files.split()):
        write_image(tree / f"{name}.JPEG", 10 * number)
    options = {"splits": {"train": "train", "val": "dev", "test": "val"}}

    def warnings(root: Path) -> list[str]:
        notes = build_mine(tree.parent, root, {"options": options}).manifest.notes
        return [note for note in notes if note.startswith("warning")]

    assert warnings(tmp_path / "clean") == []
    shutil.copy(tree / "train/cat/b.JPEG", tree / "val/cat/g.JPEG")
    shutil.copy(tree / "train/cat/a.JPEG", tree / "val/cat/h.JPEG")
    shutil.copy(tree / "train/dog/c.JPEG", tree / "train/cat/i.JPEG")
    leak, labels = warnings(tmp_path / "leaking")
    assert "photographs of train that are in another split too, byte for byte: 2, the first" in leak
    assert "the first train/cat/a.JPEG and val/cat/h.JPEG; keep one" in leak
    assert "photographs with two labels, byte for byte: 1, the first train/cat/i.JPEG and train/dog/c.JPEG" in labels


@pytest.mark.parametrize(
    "option", [{"source": "imgs"}, {"voc": ["imgs"]}, {"masks": {"source": "imgs", "pattern": "x"}}]
)
def test_a_source_that_the_card_does_not_have_is_named(tree: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    options = {"splits": {"train": "train", "test": "val"}, **option}
    with pytest.raises(CardError, match=r"card of mine: .*options name source 'imgs'.* 'images'"):
        build_mine(tree, tmp_path, {"options": options})


def test_empty_file_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "mine" / "val" / "dog" / "dog_val1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog_val1\.JPEG is empty \(0 bytes\); unpack its archive again") as caught:
        build_mine(tree, tmp_path)
    assert "\n" not in str(caught.value)


def test_verify_compares_an_official_build_with_its_card(tree: Path, tmp_path: Path) -> None:
    variant = {"counts": {"train+val": {"count": 16, "classes": [8, 8]}, "test": {"count": 6, "groups": [3, 3]}}}
    dataset = build_mine(tree, tmp_path, variant)
    assert dataset.manifest.kind == "official"
    verify(dataset)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"fingerprint": "0" * 64}, "fingerprint is .*, the card says 0000"),
        ({"counts": {"test": {"count": 7}}}, "test has 6 samples, not 7"),
        ({"counts": {"train+val": {"classes": [9, 7]}}}, r"train\+val classes \[8, 8\], not \[9, 7\]"),
    ]
    for change, expected in changes:
        cards = write_card(tmp_path, {**variant, **change})
        with pytest.raises(DataError, match=expected):
            verify(ShardDataset.open("mine", tmp_path / "data", cards))


def test_pinned_fingerprint_is_enforced(tree: Path, tmp_path: Path) -> None:
    fingerprint = build_mine(tree, tmp_path / "a").manifest.fingerprint
    assert build_mine(tree, tmp_path / "b", {"fingerprint": fingerprint}).manifest.fingerprint == fingerprint
    write_image(tree / "mine" / "val" / "dog" / "dog_val1.JPEG", 200)
    with pytest.raises(DataError, match=f"the card says {fingerprint}.*some image or mask differs"):
        build_mine(tree, tmp_path / "b" / "other", {"fingerprint": fingerprint})


def test_official_counts_by_class(tree: Path, tmp_path: Path) -> None:
    build_mine(tree, tmp_path / "a", {"counts": {"test": {"each_class": 3}, "train+val": {"classes": [8, 8]}}})
    with pytest.raises(DataError, match=r"test classes \[3, 3\], not \[4, 4\]"):
        build_mine(tree, tmp_path / "b", {"counts": {"test": {"each_class": 4}}})


@pytest.mark.parametrize(
    ("variant", "changes", "expected"),
    [
        ({"options": {"splits": {}}}, {}, r"options\.splits"),
        ({"options": {"splits": {"train": "train"}, "share": 1}}, {}, r"options\.share"),
        ({}, {"groups": ["a", "b"]}, "groups: classes"),
        (
            {"options": {"splits": {"train": "train"}, "class_folders": ["cat"]}},
            {},
            "1 class_folders for 2 class names",
        ),
    ],
)
def test_wrong_cards(
    tree: Path, tmp_path: Path, variant: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises((CardError, DataError), match=expected):
        build_mine(tree, tmp_path, variant, **changes)


# ImageNet's own forms ------------------------------------------------------------------------------------------------


def test_voc_boxes_are_scaled_to_the_stored_image(tmp_path: Path) -> None:
    """ImageWoof at 160 px has smaller images than the annotations speak of."""
    raw = tmp_path / "raw"
    write_tree(raw / "imagewoof2", tuple(WOOF), train=10, val=1)
    boxes = raw / "ILSVRC2012_bbox_train_v2" / WOOF[0]
    boxes.mkdir(parents=True)
    (boxes / f"{WOOF[0]}_val0.xml").write_text(voc(WOOF[0], [(80, 30, 160, 120)], size=(160, 120)))
    other = voc(WOOF[0], [(0, 0, 40, 30)]).replace(f"<name>{WOOF[0]}", "<name>n00000000")
    (boxes / f"{WOOF[0]}_train0.xml").write_text(other)
    by_breed = voc(WOOF[0], [(0, 0, 80, 60)], size=(160, 120)).replace(f"<name>{WOOF[0]}", "<name>Shih-Tzu")
    (boxes / f"{WOOF[0]}_train1.xml").write_text(by_breed)
    dataset = build("imagewoof", raw, tmp_path / "data", partial=True, workers=1).dataset
    test = dataset.split("test")
    boxed = {}
    for split in ("train", "val"):
        index = dataset.split(split)
        boxed |= {key: index.read(i).boxes for i, key in enumerate(index.keys) if index.read(i).boxes}
    assert boxed == {f"{WOOF[0]}_train1": [(0.0, 0.0, 20.0, 15.0)]}  # called by its breed, as many dogs are there
    found = {key: test.read(i).boxes for i, key in enumerate(test.keys)}
    assert found.pop(f"{WOOF[0]}_val0") == [(20.0, 7.5, 40.0, 30.0)]
    assert set(map(len, found.values())) == {0}
    # two of 110 images: the third annotation is of another class
    assert dataset.manifest.ground_truth.share_with_boxes == pytest.approx(2 / 110)
    assert dataset.manifest.ground_truth.mean_box_share == pytest.approx(
        (20 * 22 / 1200 + 20 * 15 / 1200) / 2, abs=0.03
    )
    assert dataset.manifest.classes[0] == "Shih-Tzu"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<annotation>", "is not a VOC file"),
        ("<annotation></annotation>", "no size/width"),
        (voc(WOOF[0], [(0, 0, 1, 1)], size=(0, 0)), "states a size of 0x0"),
        (voc(WOOF[0], []).replace("<width>40", "<width>nan"), "states a size of nanx30"),
        ('<!DOCTYPE a [<!ENTITY x "xx">]><annotation>&x;</annotation>', "has a DOCTYPE"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, expected: str) -> None:
    raw = tmp_path / "raw"
    write_tree(raw / "imagewoof2", (WOOF[0], WOOF[1]), train=2, val=1)
    path = raw / "ILSVRC2012_bbox_train_v2" / WOOF[0] / f"{WOOF[0]}_val0.xml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        build("imagewoof", raw, tmp_path / "data", partial=True, workers=1)
    assert f"{WOOF[0]}_val0" in str(caught.value)


def test_boxes_of_imagenet_that_have_no_place_in_the_image_are_counted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_tree(raw / "imagewoof2", (WOOF[0], WOOF[1]), train=2, val=4)
    folder = raw / "ILSVRC2012_bbox_train_v2" / WOOF[0]
    folder.mkdir(parents=True)
    texts = [
        voc(WOOF[0], [(50, 40, 60, 50), (1, 2, 11, 12)]),  # one beside the image
        voc(WOOF[0], [(20, 10, 10, 20)]),  # swapped corners
        voc(WOOF[0], [(30, 10, 45, 20)]),  # reaching out
        voc(WOOF[0], [(0, 0, 10, 10)], size=(30, 40)),  # of the image turned
    ]
    for i, text in enumerate(texts):
        (folder / f"{WOOF[0]}_val{i}.xml").write_text(text)
    dataset = build("imagewoof", raw, tmp_path / "data", partial=True, workers=1).dataset
    test = dataset.split("test")
    found = [test.read(test.keys.index(f"{WOOF[0]}_val{i}")).boxes for i in range(4)]
    assert found == [[(1.0, 2.0, 11.0, 12.0)], [(10.0, 10.0, 20.0, 20.0)], [(30.0, 10.0, 40.0, 20.0)], []]
    for trait in ("box outside the image", "box reaching out of the image", "boxes of an image of another shape"):
        assert dataset.manifest.image_traits[trait] == 1


@pytest.mark.parametrize(
    ("corners", "size", "expected", "share", "traits"),
    [
        ((10, 5, 20, 20), (40, 30), (10.0, 5.0, 20.0, 20.0), 150 / 1200, ()),
        ((10, 19, 50, 57), (100, 76), (4.0, 7.5, 20.0, 22.5), None, ()),  # sides of nearly one aspect, each to its own
        ((30, 10, 42, 20), (40, 30), (30.0, 10.0, 40.0, 20.0), 100 / 1200, ()),  # two pixels out are not odd
        ((30, 10, 43, 20), (40, 30), (30.0, 10.0, 40.0, 20.0), 100 / 1200, ("box reaching out of the image",)),
    ],
)
def test_boxes_of_an_annotation_by_hand(
    tmp_path: Path,
    corners: tuple[int, int, int, int],
    size: tuple[int, int],
    expected: tuple[float, ...],
    share: float | None,
    traits: tuple[str, ...],
) -> None:
    image, annotation = tmp_path / "a.png", tmp_path / "a.xml"
    write_image(image, 20)
    annotation.write_text(voc("dog", [corners], size=size))
    recipe = Recipe("train", "a", 0, 0, -1, "a.png", image, None, (), None, 0.5, voc=annotation, loose_boxes=True)
    sample = render(recipe)
    assert json.loads(sample.meta)["boxes"] == [list(expected)]
    assert sample.traits == traits
    if share is not None:
        assert sample.box_share == pytest.approx(share)


def test_a_later_line_of_a_solution_goes_before_an_earlier_one(tmp_path: Path) -> None:
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    tables[0].write_text("ImageId,PredictionString\nx,n1 0 0 1 1\ny,n1 2 2 3 3\nx,n1 4 4 5 5 n2 6 6 7 7\n")
    tables[1].write_text("ImageId,PredictionString\ny,n3 8 8 9 9\n")
    boxes = SolutionBoxes(tables)
    assert boxes.of("x") == [("n1", (4.0, 4.0, 5.0, 5.0)), ("n2", (6.0, 6.0, 7.0, 7.0))]
    assert boxes.of("y") == [("n3", (8.0, 8.0, 9.0, 9.0))]
    assert boxes.of("z") == []


def hundred(raw: Path) -> list[str]:
    wnids = load_card("imagenet100").variants["cmc"].options["class_folders"][:3]
    write_tree(raw / "imagenet", (*wnids, "n09999999"), train=20, val=2)
    return list(wnids)


def test_solution_csv_gives_boxes_of_the_class(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    wnids = hundred(raw)
    (raw / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        f"{wnids[1]}_val0,{wnids[1]} 1 2 11 12 {wnids[1]} 20 5 60 25 {wnids[2]} 0 0 5 5 \n"
        f"{wnids[2]}_val1,{wnids[2]} 3 3 9 9\n"
    )
    dataset = build("imagenet100", raw, tmp_path / "data", partial=True, workers=1).dataset
    test = dataset.split("test")
    found = {key: test.read(i).boxes for i, key in enumerate(test.keys)}
    assert found[f"{wnids[1]}_val0"] == [(1.0, 2.0, 11.0, 12.0), (20.0, 5.0, 40.0, 25.0)]  # clipped to the image
    assert found[f"{wnids[2]}_val1"] == [(3.0, 3.0, 9.0, 9.0)]
    assert dataset.manifest.image_traits == {"box reaching out of the image": 1}
    assert len(test) == 6, "other classes of ImageNet are left out"
    assert dataset.manifest.classes == ["bonnet, poke bonnet", "green mamba", "langur"]
    assert {name: split.count for name, split in dataset.manifest.splits.items()} == {"train": 57, "val": 3, "test": 6}


def test_flat_val_is_sorted_by_the_solution_csv(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    wnids = hundred(raw)
    sorted_tree = build("imagenet100", raw, tmp_path / "a", partial=True, workers=1).dataset
    lines = ["ImageId,PredictionString"]
    for path in sorted((raw / "imagenet" / "val").glob("*/*")):
        lines.append(f"{path.stem},{path.parent.name} 1 1 9 9")
        path.rename(raw / "imagenet" / "val" / path.name)
    for folder in list((raw / "imagenet" / "val").iterdir()):
        if folder.is_dir():
            folder.rmdir()
    with pytest.raises(DataError, match=r"lies in no class folder.*LOC_val_solution\.csv"):
        build("imagenet100", raw, tmp_path / "b", partial=True, workers=1)
    (raw / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    flat = build("imagenet100", raw, tmp_path / "b", partial=True, workers=1).dataset
    one, other = sorted_tree.split("test"), flat.split("test")
    assert one.keys == other.keys
    assert one.label.tolist() == other.label.tolist()
    assert len(other) == 2 * len(wnids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ImageId,PredictionString\nx,n01 1 2 3\n", "line 2.*not a multiple of five"),
        ("ImageId,PredictionString\nx,n01 1 2 3 4\ny,n01 1 two 3 4\n", "line 3"),
        ("ImageId,Other\nx,n01 1 2 3 4\n", "line 2"),
    ],
)
def test_bad_solution_csv(tmp_path: Path, text: str, expected: str) -> None:
    raw = tmp_path / "raw"
    hundred(raw)
    (raw / "LOC_val_solution.csv").write_text(text)
    with pytest.raises(DataError, match=rf"LOC_val_solution\.csv, {expected}"):
        build("imagenet100", raw, tmp_path / "data", partial=True, workers=1)


@pytest.mark.raw
@pytest.mark.slow
def test_real_dogs(tmp_path: Path, raw_photographs: Path) -> None:
    folder = raw_photographs / "imagewoof2"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    dataset = build("imagewoof", raw_photographs, tmp_path, partial=True).dataset
    assert sum(split.count for split in dataset.manifest.splits.values()) == len(list(folder.rglob("*.JPEG")))
    index = dataset.split("test")
    for i in range(0, len(index), 50):
        assert index.read(i).image == (folder / "val" / WOOF[index.label[i]] / f"{index.keys[i]}.JPEG").read_bytes()
