"""Reads the text files of CUB-200-2011, from which all bird datasets here are made."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aimbench.cards import Card
from aimbench.data.raw import RawFolder, member
from aimbench.data.samples import Box, Recipe
from aimbench.errors import DataError


@dataclass(frozen=True)
class Bird:
    """One photograph of CUB.

    Attributes:
        number: ``img_id`` of ``images.txt``.
        file: Path under ``images/``, ``<species folder>/<name>.jpg``.
        label: Species, 0-based.
        in_train: Whether CUB's split has it in train.
        box: (x0, y0, x1, y1) in pixels.
        image: The photograph.
        mask: Its segmentation.
    """

    number: int
    file: str
    label: int
    in_train: bool
    box: Box
    image: Path
    mask: Path

    @property
    def key(self) -> str:
        """The file name without suffix, fit for a sample's name."""
        return key_of(self.file)


@dataclass(frozen=True)
class Cub:
    """The tables of CUB.

    Attributes:
        species: Species folders in label order, e.g. ``001.Black_footed_Albatross``.
        birds: All photographs in the order of ``images.txt``.
    """

    species: list[str]
    birds: list[Bird]


def key_of(file: str) -> str:
    """Turns ``folder/name.jpg`` into a sample key without dots and slashes."""
    return Path(file).stem.replace(".", "_")


def read_cub(raw: RawFolder, card: Card) -> Cub:
    """Reads CUB's tables and checks that they agree with each other and with the segmentations.

    Raises:
        DataError: If a table is malformed, a label is outside the classes, or a mask is missing.
    """
    folder = raw.open(card, "cub")
    masks = raw.open(card, "segmentations")
    species = read_species(folder)
    files = _table(folder / "images.txt", 1)
    labels = _table(folder / "image_class_labels.txt", 1)
    in_train = _table(folder / "train_test_split.txt", 1)
    boxes = _table(folder / "bounding_boxes.txt", 4)
    birds = []
    for number, (file,) in files.items():
        label = _number(labels, number, folder / "image_class_labels.txt")
        if not 1 <= label <= len(species):
            raise DataError(
                f"{folder / 'image_class_labels.txt'}: image {number} has label {label}, but classes.txt has "
                f"1 to {len(species)}; get the official archive"
            )
        birds.append(
            Bird(
                number=number,
                file=file,
                label=label - 1,
                in_train=bool(_number(in_train, number, folder / "train_test_split.txt")),
                box=_box(boxes, number, folder / "bounding_boxes.txt"),
                image=member(folder / "images", file),
                mask=member(masks, str(Path(file).with_suffix(".png"))),
            )
        )
    _check_masks(birds, masks)
    return Cub(species, birds)


def read_species(cub_folder: Path) -> list[str]:
    """Reads the species folders of ``classes.txt`` in label order."""
    table = _table(cub_folder / "classes.txt", 1)
    if list(table) != list(range(1, len(table) + 1)):
        raise DataError(f"{cub_folder / 'classes.txt'} is not numbered from 1 without a gap; get the official archive")
    return [name for (name,) in table.values()]


def stratified_validation(birds: list[Bird], share: float, seed: int) -> set[int]:
    """Draws ``share`` of CUB's train, seeded and within each species; returns the ``img_id`` s."""
    rng = np.random.default_rng(seed)
    by_species: dict[int, list[int]] = {}
    for bird in birds:
        if bird.in_train:
            by_species.setdefault(bird.label, []).append(bird.number)
    chosen: set[int] = set()
    for label in sorted(by_species):
        numbers = sorted(by_species[label])
        size = round(share * len(numbers))
        chosen.update(int(n) for n in rng.choice(numbers, size=size, replace=False))
    return chosen


def bird_recipe(
    bird: Bird,
    card: Card,
    split: str,
    *,
    label: int,
    group: int,
    place: int = -1,
    background: Path | str | None = None,
    image: Path | None = None,
) -> Recipe:
    """Makes the recipe of a bird: its photograph, another ``image`` of it, or a composite."""
    return Recipe(
        split=split,
        key=bird.key,
        label=label,
        group=group,
        place=place,
        source=bird.file,
        image=image or bird.image,
        mask=bird.mask,
        boxes=(bird.box,),
        background=background,
        mask_threshold=card.ground_truth.mask_threshold,
    )


def _table(path: Path, columns: int) -> dict[int, list[str]]:
    """Reads ``<number> <value> ...`` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; unpack CUB_200_2011.tgz again") from None
    table: dict[int, list[str]] = {}
    for line_number, line in enumerate(lines, start=1):
        values = line.split()
        if not values:
            continue
        if len(values) != columns + 1 or not values[0].isdigit() or int(values[0]) in table:
            raise DataError(f"{path}, line {line_number}: '{line:.80}' is not '<new id> <{columns} values>'; mend it")
        table[int(values[0])] = values[1:]
    return table


def _number(table: dict[int, list[str]], number: int, path: Path) -> int:
    try:
        return int(table[number][0])
    except (KeyError, ValueError):
        raise DataError(f"{path} has no whole number for image {number}; get the official archive") from None


def _box(table: dict[int, list[str]], number: int, path: Path) -> Box:
    try:
        x, y, width, height = (float(value) for value in table[number])
    except (KeyError, ValueError):
        raise DataError(f"{path} has no 'x y width height' for image {number}; get the official archive") from None
    return (x, y, round(x + width, 2), round(y + height, 2))


def _check_masks(birds: list[Bird], masks: Path) -> None:
    lacking = [bird.file for bird in birds if not bird.mask.is_file()]
    if lacking:
        species = sorted({file.split("/")[0] for file in lacking})
        raise DataError(
            f"{masks} has no mask for {len(lacking)} photographs of {len(species)} species "
            f"({', '.join(species[:3])}{', ...' if len(species) > 3 else ''}; first: {lacking[0]}); "
            "unpack segmentations.tgz again"
        )
