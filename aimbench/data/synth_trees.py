"""Synthesises ImageNet trees with boxes as VOC XML and masks as Hard ImageNet ships them."""

from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from aimbench.data import synth_settings as settings
from aimbench.data.synth_objects import DRAW
from aimbench.data.synth_scenes import draw_scene, place_of

_TREE = 4  # part of the seed, beside those of the other streams


class TreeOptions(BaseModel):
    """``synth`` of a card whose mini is an ImageNet tree.

    The planted cue: class ``i`` has scene ``i``, behind ``cue_train`` of its
    images in train and ``cue_test`` of those in val; the rest stand before
    another class' scene.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tree: str = Field(description="Folder of the tree.")
    object: Literal["dog", "thing"]
    classes: int | None = Field(default=None, gt=1, description="The first so many class folders; by default all.")
    cue_train: float = Field(ge=0, le=1)
    cue_test: float = Field(ge=0, le=1)
    scale: tuple[float, float] | None = None
    boxes: str | None = Field(
        default=None, description="Source of the VOC files of train, and of val if boxes_test is not named."
    )
    boxes_test: str | None = None
    masks: str | None = Field(default=None, description="Source of the masks, SPLIT/CLASS_FILE, JPEG.")
    ranks: str | None = Field(
        default=None,
        description="CSV of the ranks of train, to be written: a class' images before its own scene first.",
    )


def write_tree(folder: Path, options: TreeOptions, class_folders: list[str], places: dict[str, str], seed: int) -> None:
    """Writes the tree and its annotations.

    Args:
        folder: Raw folder.
        options: Of the card's variant.
        class_folders: Names of the class folders in label order.
        places: Source -> its folder under the raw folder.
        seed: Of all variation.
    """
    wnids = class_folders[: options.classes]
    ranks = ["class,file,rank"]
    for label, wnid in enumerate(wnids):
        for split, share, count in (
            ("train", options.cue_train, settings.TREE_TRAIN),
            ("val", options.cue_test, settings.TREE_TEST),
        ):
            for i in range(count):
                rng = np.random.default_rng([seed, _TREE, label, i + (split == "val") * 100_000])
                # Exact shares, so that a small mini has its cue whatever the seed.
                own = (i + 0.5) / count < share
                scene = label if own else int((label + rng.integers(1, len(wnids))) % len(wnids))
                image, mask = _photograph(label, scene, options, rng)
                stem = f"{wnid}_{i}" if split == "train" else f"ILSVRC2012_val_{label * count + i + 1:08d}"
                _write(folder, options, places, split, wnid, stem, image, mask)
                if split == "train":
                    ranks.append(f"{wnid},{stem}.JPEG,{i + 1}")  # those before their own scene come first
    if options.ranks:
        (folder / options.ranks).write_text("\n".join(ranks) + "\n", encoding="utf-8")


def _photograph(
    label: int, scene: int, options: TreeOptions, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Returns an image of an object before a scene, and the object's outline as a grey mask."""
    width, height = (round(side * rng.uniform(0.9, 1.0)) for side in settings.TREE_SIZE)
    image = draw_scene(place_of(scene), rng, (width, height))
    thing = DRAW[options.object](label, round(width * rng.uniform(*(options.scale or settings.TREE_SCALE))), rng)
    thing.thumbnail((width, height))
    left, top = (int(rng.integers(0, free + 1)) for free in (width - thing.width, height - thing.height))
    image.paste(thing, (left, top), mask=thing.getchannel("A"))
    mask = Image.new("L", (width, height), 0)
    mask.paste(thing.getchannel("A"), (left, top))
    return image, mask


def _write(
    folder: Path,
    options: TreeOptions,
    places: dict[str, str],
    split: str,
    wnid: str,
    stem: str,
    image: Image.Image,
    mask: Image.Image,
) -> None:
    file = f"{stem}.JPEG"
    _save(image, folder / options.tree / split / wnid / file)
    if options.masks:
        _save(mask, folder / places[options.masks] / split / f"{wnid}_{file}")
    boxes = options.boxes_test if split == "val" and options.boxes_test else options.boxes
    if boxes:
        root = folder / places[boxes]
        path = root / f"{stem}.xml" if split == "val" and options.boxes_test else root / wnid / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_voc(wnid, stem, mask), encoding="utf-8")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=92)


def _voc(wnid: str, stem: str, mask: Image.Image) -> str:
    rows, columns = np.nonzero(np.asarray(mask) >= 128)
    return (
        f"<annotation><folder>{escape(wnid)}</folder><filename>{escape(stem)}</filename>"
        f"<size><width>{mask.width}</width><height>{mask.height}</height><depth>3</depth></size>"
        f"<object><name>{escape(wnid)}</name><bndbox><xmin>{columns.min()}</xmin><ymin>{rows.min()}</ymin>"
        f"<xmax>{columns.max() + 1}</xmax><ymax>{rows.max() + 1}</ymax></bndbox></object></annotation>\n"
    )
