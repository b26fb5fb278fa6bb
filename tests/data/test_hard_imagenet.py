"""Hard ImageNet: ImageNet's images, another archive's masks, the authors' ranking."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_tree import write_tree

from aimbench.cards import default_cards_dir, load_card
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.samples import decode_mask
from aimbench.data.verify import verify
from aimbench.errors import DataError

HARD = load_card("hardimagenet").variants["official"].options["class_folders"]


def hard_imagenet(raw: Path, size: tuple[int, int] = (40, 30)) -> None:
    """Masks as the authors' archive names them; the last train image of a class has none, the first an empty one."""
    write_tree(raw / "imagenet", (*HARD[:2], "n09999999"), train=11, val=2)
    for split, count in (("train", 10), ("val", 2)):
        for wnid in HARD[:2]:
            for i in range(count):
                mask = np.zeros((size[1], size[0]), dtype=np.uint8)
                if i:
                    mask[size[1] // 3 : size[1] * 2 // 3, : size[0] // 2] = 255
                path = raw / "hardImageNet" / split / f"{wnid}_{wnid}_{split}{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path, quality=60)


def test_hard_imagenet_joins_masks_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw)
    dataset = build("hardimagenet", raw, tmp_path / "data", partial=True, workers=1).dataset
    assert {name: split.count for name, split in dataset.manifest.splits.items()} == {"train": 18, "val": 2, "test": 4}
    truth = dataset.manifest.ground_truth
    assert (truth.share_with_mask, truth.empty_masks) == (1.0, 2 + 2)
    assert truth.mean_foreground_share == pytest.approx(20 / 24 * 200 / 1200, abs=0.01)
    assert not [note for note in dataset.manifest.notes if "masks" in note]
    loose = build("hardimagenet@any-foreground", raw, tmp_path / "data", partial=True, workers=1).dataset
    # JPEG's ringing around the object is foreground at a threshold above 0
    assert loose.manifest.ground_truth.mean_foreground_share > 1.05 * truth.mean_foreground_share


def test_a_mask_without_its_image_is_told(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw)
    for i in (3, 4):
        (raw / "imagenet" / "train" / HARD[1] / f"{HARD[1]}_train{i}.JPEG").unlink()
    dataset = build("hardimagenet", raw, tmp_path / "data", partial=True, workers=1).dataset
    first = f"{HARD[1]}_{HARD[1]}_train3.JPEG"
    assert f"2 of 24 masks have no image, the first {first}" in dataset.manifest.notes
    assert sum(split.count for split in dataset.manifest.splits.values()) == 22
    with pytest.raises(DataError, match="2 of 24 masks have no image"):
        build("hardimagenet", raw, tmp_path / "other", workers=1)


def test_masks_of_another_size_but_the_same_aspect_are_scaled(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw, size=(80, 60))
    test = build("hardimagenet", raw, tmp_path / "data", partial=True, workers=1).dataset.split("test")
    for i, key in enumerate(test.keys):
        mask = test.read(i).mask
        assert mask is not None
        pixels = decode_mask(mask, key)
        assert pixels.shape == (30, 40)
        assert (pixels > 0).sum() == (0 if key.endswith("val0") else 200)
    hard_imagenet(raw, size=(60, 60))
    with pytest.raises(DataError, match="is 60x60, its image 40x30"):
        build("hardimagenet", raw, tmp_path / "other", partial=True, workers=1)


def rank_cards(folder: Path, each: int = 2) -> Path:
    """The card of Hard ImageNet with so many images of either end in place of a hundred."""
    card = folder / "cards" / "hardimagenet" / "card.yaml"
    card.parent.mkdir(parents=True)
    text = (default_cards_dir() / "hardimagenet" / "card.yaml").read_text()
    card.write_text(text.replace("each: 100", f"each: {each}"))
    return folder / "cards"


def write_ranks(raw: Path, form: str) -> None:
    """Image i of a class has rank i + 1; the last has no mask."""
    if form == "csv":
        lines = ["class,file,rank"]
        lines += [f"{wnid},{wnid}_train{i}.JPEG,{i + 1}" for wnid in HARD[:2] for i in range(11)]
        (raw / "hardimagenet_ranks.csv").write_text("\n".join(lines) + "\n")
    else:
        paths = {537 + c: [f"train/{w}/{w}_train{i}.JPEG" for i in range(11)] for c, w in enumerate(HARD[:2])}
        (raw / "hardImageNet" / "meta").mkdir()
        (raw / "hardImageNet" / "meta" / "paths_by_rank.pkl").write_bytes(pickle.dumps(paths))


def images(dataset: ShardDataset, *splits: str) -> set[str]:
    return {key for split in splits for key in dataset.split(split).keys}


@pytest.mark.parametrize("form", ["csv", "pickle"])
@pytest.mark.parametrize(("variant", "kept"), [("balanced", (0, 1, 8, 9)), ("first", (0, 1)), ("last", (8, 9))])
def test_train_keeps_ends_of_the_ranking(tmp_path: Path, form: str, variant: str, kept: tuple[int, ...]) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw)
    write_ranks(raw, form)
    name, cards = f"hardimagenet@rank-{variant}", rank_cards(tmp_path)
    dataset = build(name, raw, tmp_path / "data", partial=True, workers=1, cards_dir=cards).dataset
    # of the ten with a mask; val's share is drawn before, so it may be empty
    splits = [split for split in ("train", "val") if split in dataset.splits]
    assert images(dataset, *splits) == {f"{wnid}_train{i}" for wnid in HARD[:2] for i in kept}
    assert len(dataset.split("test")) == 4


def test_ends_of_the_ranking_as_test_conditions(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw)
    write_ranks(raw, "csv")
    name, cards = "hardimagenet@rank-apart", rank_cards(tmp_path)
    dataset = build(name, raw, tmp_path / "data", partial=True, workers=1, cards_dir=cards).dataset

    def of(*ranks: int) -> set[str]:
        return {f"{wnid}_train{i}" for wnid in HARD[:2] for i in ranks}

    assert images(dataset, "test_first_ranked") == of(0, 1)
    assert images(dataset, "test_last_ranked") == of(8, 9)
    splits = [split for split in ("train", "val") if split in dataset.splits]
    assert images(dataset, *splits) == of(2, 3, 4, 5, 6, 7)
    assert len(dataset.split("test")) == 4
    verify(dataset)


@pytest.mark.parametrize("each", [100, 5])  # of twice five none is left to train on
def test_a_class_too_small_for_two_ends_is_named(tmp_path: Path, each: int) -> None:
    raw = tmp_path / "raw"
    hard_imagenet(raw)
    write_ranks(raw, "csv")
    cards = rank_cards(tmp_path, each)
    with pytest.raises(DataError, match=f"class 0 has 10 ranked images, too few for {each} of either end"):
        build("hardimagenet@rank-apart", raw, tmp_path / "data", partial=True, workers=1, cards_dir=cards)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({1: [2]}), "hostile", None])
def test_rankings_that_are_none(tmp_path: Path, content: bytes | str | None) -> None:
    raw, made = tmp_path / "raw", tmp_path / "made"
    hard_imagenet(raw)
    (raw / "hardImageNet" / "meta").mkdir()
    if content is not None:
        data = pickle.dumps({1: Hostile(made)}) if isinstance(content, str) else content
        (raw / "hardImageNet" / "meta" / "paths_by_rank.pkl").write_bytes(data)
    expected = "has no ranking" if content is None else r"paths_by_rank\.pkl is no pickled dictionary"
    with pytest.raises(DataError, match=expected):
        build("hardimagenet@rank-balanced", raw, tmp_path / "data", partial=True, workers=1)
    assert not made.exists(), "nothing in a pickle runs"
