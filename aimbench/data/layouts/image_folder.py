"""One folder a class: ``<split folder>/<class folder>/<image>``, as ImageNet and its subsets lie on disk.

Boxes are joined by file name from ImageNet's annotations, masks from a
second folder. Image bytes pass through untouched.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.annotations import SolutionBoxes, read_voc_name
from aimbench.data.layouts.held_out import hold_out
from aimbench.data.layouts.options import Options, read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.layouts.ranks import Ranks, keep_ranked
from aimbench.data.raw import RawFolder, member
from aimbench.data.recipes import Recipes
from aimbench.data.samples import Box, Recipe
from aimbench.errors import CardError, DataError, nearest_names

_PLACEHOLDER = re.compile(r"\{(split|class|file|stem)\}")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class _Masks(Options):
    """Where the mask of an image lies."""

    source: str
    pattern: str = Field(description="Path, with {split} the split's folder, {class} the class folder, {file}, {stem}.")
    threshold: float | None = Field(default=None, gt=0, lt=1, description="In place of the card's.")
    scaled: bool = Field(default=False, description="Resize a mask of another size but the same aspect.")
    select: bool = Field(default=False, description="Only images that have a mask belong to the dataset.")


class ImageFolderOptions(Options):
    """Options of the layout ``image_folder``."""

    source: str = Field(default="images", description="Source that holds the split folders.")
    splits: dict[str, str] = Field(min_length=1, description="Split -> folder in the source.")
    class_folders: list[str] = Field(
        default_factory=list, description="Folder of each class in label order; empty: the card's class names."
    )
    class_names: list[str] = Field(default_factory=list, description="In place of the card's, in label order.")
    other_folders: Literal["refuse", "ignore"] = Field(
        default="refuse", description="What to do with folders of other classes."
    )
    keys: Literal["path", "stem"] = Field(
        default="path", description="Name a sample by class folder and file, or by the file's name alone."
    )
    validation_share: float = Field(default=0, ge=0, lt=1, description="Share of train drawn for val.")
    voc: list[str] = Field(default_factory=list, description="Sources of VOC XML files named as the images.")
    solutions: dict[str, str] = Field(default_factory=dict, description="Source -> LOC_*_solution.csv in it.")
    masks: _Masks | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True)
class _Found:
    """One image file."""

    split: str
    split_folder: str
    class_folder: str
    path: Path


@dataclass(frozen=True)
class _Boxes:
    """Annotations: folders of VOC files, and the boxes of CSV files by image name."""

    voc: list[Path]
    solutions: SolutionBoxes

    def find(self, class_folder: str, stem: str) -> tuple[Path | None, tuple[Box, ...]]:
        """Returns the VOC file of an image, else its boxes from a CSV."""
        for folder in self.voc:
            for path in (folder / class_folder / f"{stem}.xml", folder / f"{stem}.xml"):
                if path.is_file():
                    return path, ()
        return None, tuple(box for name, box in self.solutions.of(stem) if name == class_folder)

    def class_of(self, stem: str) -> str | None:
        """Returns the class folder that the annotation of an image names, from a CSV or its VOC file."""
        for name, _ in self.solutions.of(stem):
            return name
        paths = (folder / f"{stem}.xml" for folder in self.voc)
        return next((name for path in paths if path.is_file() and (name := read_voc_name(path))), None)


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans a dataset whose classes are folders.

    Raises:
        CardError: If the card's lists of classes do not agree.
        DataError: If a folder is no class, a split folder is absent, or a mask is missing.
    """
    options = read_options(ImageFolderOptions, card, variant)
    _check_lists(card, options)
    root = raw.open(card, options.source, options.class_folders or card.classes)
    boxes = _read_boxes(raw, card, options)
    # The folders are read twice: which classes there are must be known before the first label.
    names = _class_names(card, options, {found.class_folder for found in _find_all(root, card, options, boxes)})
    labels = {folder: label for label, folder in enumerate(names)}
    masks = raw.open(card, options.masks.source) if options.masks else None
    made = (
        _recipe(root, card, options, labels[found.class_folder], boxes, masks, found)
        for found in _find_all(root, card, options, boxes)
    )
    recipes = Recipes(recipe for recipe in made if recipe is not None)
    hold_out(recipes, options.validation_share, seed)
    lacking = _unused_masks(options.masks, recipes) if options.masks else []
    if options.ranks:
        keep_ranked(raw, card, options.ranks, recipes)
    classes = list(names.values())
    notes = _notes(card, names, recipes) + _passed_over(root, options, names)
    return Plan(recipes=recipes, classes=classes, groups=classes, notes=notes, lacking=lacking)


def _read_boxes(raw: RawFolder, card: Card, options: ImageFolderOptions) -> _Boxes:
    """Annotations are optional: those that the raw folder lacks are left out."""
    voc = [raw.open(card, name) for name in options.voc if raw.has(card.source(name))]
    files = (
        member(raw.open(card, name), file) for name, file in options.solutions.items() if raw.has(card.source(name))
    )
    return _Boxes(voc, SolutionBoxes(files))


def _find_all(root: Path, card: Card, options: ImageFolderOptions, boxes: _Boxes) -> Iterator[_Found]:
    known = options.class_folders or card.classes
    for split, folder_name in options.splits.items():
        folder = member(root, folder_name)
        if not folder.is_dir():
            raise DataError(f"{root} has no folder {folder_name} for split {split}; unpack the archive again")
        class_folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        for name in class_folders:
            if known and name not in known:
                if options.other_folders == "ignore":
                    continue
                raise DataError(
                    f"{folder / name} is no class of {card.name}; {nearest_names(name, known)}; rename or remove it"
                )
            for path in _images(folder / name):
                yield _Found(split, folder_name, name, path)
        if not class_folders:
            yield from _find_flat(folder, split, folder_name, known, boxes)


def _find_flat(folder: Path, split: str, folder_name: str, known: list[str], boxes: _Boxes) -> Iterator[_Found]:
    """Images without class folders, as ImageNet's val is unpacked: the annotation with the boxes names the class."""
    for path in _images(folder):
        name = boxes.class_of(path.stem)
        if name is None:
            raise DataError(
                f"{path} lies in no class folder and no annotation names its class; sort the images into class "
                "folders, or put LOC_val_solution.csv or ILSVRC2012_bbox_val_v3.tgz into the raw folder"
            )
        if name in known:
            yield _Found(split, folder_name, name, path)


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _class_names(card: Card, options: ImageFolderOptions, there: set[str]) -> dict[str, str]:
    """Class folder -> class name, in label order; of listed classes only those that are ``there``."""
    folders = options.class_folders or card.classes or sorted(there)
    names = options.class_names or card.classes or folders
    return {folder: name for folder, name in zip(folders, names, strict=True) if folder in there}


def _check_lists(card: Card, options: ImageFolderOptions) -> None:
    names = options.class_names or card.classes
    if options.class_folders and names and len(names) != len(options.class_folders):
        raise CardError(
            f"card of {card.name}: {len(options.class_folders)} class_folders for {len(names)} class names; "
            "make them equal"
        )
    if card.groups != "classes":
        raise CardError(f"card of {card.name}: layout image_folder has classes as groups; write 'groups: classes'")


def _recipe(
    root: Path,
    card: Card,
    options: ImageFolderOptions,
    label: int,
    boxes: _Boxes,
    masks: Path | None,
    found: _Found,
) -> Recipe | None:
    """Returns the recipe of an image; None where it does not belong to the dataset."""
    stem = found.path.stem
    mask = None
    if options.masks and masks is not None:
        values = {"split": found.split_folder, "class": found.class_folder, "file": found.path.name, "stem": stem}
        mask = member(masks, _PLACEHOLDER.sub(lambda match: values[match[1]], options.masks.pattern))
        if not mask.is_file():
            if options.masks.select:
                return None
            raise DataError(f"{masks} has no mask for {found.path}; unpack the masks again")
    voc, found_boxes = boxes.find(found.class_folder, stem)
    name = stem if options.keys == "stem" else f"{found.class_folder}__{stem}"
    threshold = options.masks.threshold if options.masks else None
    return Recipe(
        split=found.split,
        key=name.replace(".", "_"),
        label=label,
        group=label,
        place=-1,
        source=found.path.relative_to(root).as_posix(),
        image=found.path,
        mask=mask,
        boxes=found_boxes,
        background=None,
        mask_threshold=threshold or card.ground_truth.mask_threshold,
        mask_scaled=bool(options.masks and options.masks.scaled),
        voc=voc,
        voc_class=found.class_folder if voc else "",
        loose_boxes=True,
    )


def _unused_masks(masks: _Masks, recipes: Recipes) -> list[str]:
    """Where the masks say which images belong to the dataset, one without its image is a sample that is not there."""
    if not masks.select:
        return []
    used = {recipe.mask for recipe in recipes if isinstance(recipe.mask, Path)}
    there = {path for folder in {path.parent for path in used} for path in _images(folder)}
    missing = sorted(path.name for path in there - used)
    return [f"{len(missing)} of {len(there)} masks have no image, the first {missing[0]}"] if missing else []


def _passed_over(root: Path, options: ImageFolderOptions, names: Iterable[str]) -> list[str]:
    """Says what lies in class folders and was taken for no image: folders, and files with other suffixes."""
    folders = [member(root, folder) / name for folder in options.splits.values() for name in names]
    left = [
        path.relative_to(root).as_posix()
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.suffix.lower() not in IMAGE_SUFFIXES
    ]
    return [f"not taken for images in class folders: {len(left)} files or folders, the first {left[0]}"] if left else []


def _notes(card: Card, names: dict[str, str], recipes: Recipes) -> list[str]:
    notes = []
    if len(names) < card.num_classes:
        notes.append(f"{card.num_classes - len(names)} of {card.num_classes} classes are absent; labels are renumbered")
    if card.ground_truth.kind in ("boxes", "both"):
        without = sum(recipe.voc is None and not recipe.boxes for recipe in recipes)
        if without:
            notes.append(f"no box annotation for {without} of {len(recipes)} images")
    return notes
