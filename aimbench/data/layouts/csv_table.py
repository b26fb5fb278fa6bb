"""A CSV of metadata beside a folder of images: one line a sample."""

import csv
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.layouts.held_out import hold_out
from aimbench.data.layouts.labels import Labels, TableOptions, make_labels
from aimbench.data.layouts.options import read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder, member
from aimbench.data.recipes import Recipes
from aimbench.data.samples import Box, Recipe
from aimbench.errors import CardError, DataError, nearest_names


class CsvOptions(TableOptions):
    """Options of the layout ``csv``."""

    source: str = Field(default="images", description="Source that holds the CSV and the images.")
    file: str = "metadata.csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    split: str | None = Field(default=None, description="Column of the split; without one all is train.")
    splits: dict[str, str] = Field(
        default_factory=dict, description="Value of that column -> split; empty: the values are the splits' names."
    )
    boxes: list[str] = Field(
        default_factory=list, max_length=4, description="Columns x0, y0, x1, y1 in pixels; an empty cell: no box."
    )


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans a dataset that a CSV describes; paths in it are relative to the source's folder.

    Raises:
        CardError: If some, but not all four, columns of boxes are named.
        DataError: Naming file and line, if a value is missing, unknown or leads out of the folder.
    """
    options = read_options(CsvOptions, card, variant)
    if len(options.boxes) not in (0, 4):
        raise CardError(
            f"card of {card.name}, layout csv: option 'boxes' names {len(options.boxes)} columns; name those of x0, "
            "y0, x1 and y1, or none"
        )
    root = raw.open(card, options.source)
    path = member(root, options.file)
    # The file is read once for each list of names that the card leaves open, and once for the samples.
    labels = make_labels(
        card,
        options,
        (row[options.label] for _, row in _rows(path, options)),
        (row[options.place] for _, row in _rows(path, options)) if options.place else (),
    )
    recipes = Recipes(_recipe(root, card, options, labels, row, where) for where, row in _rows(path, options))
    hold_out(recipes, options.validation_share, seed)
    masked = options.mask is None or any(recipe.mask for recipe in recipes)
    lacking = [] if masked else [f"column '{options.mask}' of {options.file} names no mask"]
    return Plan(recipes, classes=labels.classes, groups=labels.groups, places=labels.places, lacking=lacking)


def _rows(path: Path, options: CsvOptions) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (where it stands, values by column) of each line."""
    wanted = [options.image, options.label, options.group, options.place, options.mask, options.split, *options.boxes]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=options.delimiter)
            columns = list(reader.fieldnames or [])
            for column in wanted:
                if column is not None and column not in columns:
                    raise DataError(f"{path} has no column '{column}'; {nearest_names(column, columns)}")
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {number}: not {len(columns)} values; mend it")
                yield f"{path}, line {number}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} can't be read as CSV ({error}); mend it") from None


def _recipe(root: Path, card: Card, options: CsvOptions, labels: Labels, row: dict[str, str], where: str) -> Recipe:
    y, group, place = labels.read(
        row[options.label],
        row[options.group] if options.group else None,
        row[options.place] if options.place else None,
        where,
    )
    return Recipe(
        split=_split(card, row, options, where),
        key=_key(row[options.image], where),
        label=y,
        group=group,
        place=place,
        source=row[options.image],
        image=member(root, row[options.image]),
        mask=member(root, row[options.mask]) if options.mask and row[options.mask] else None,
        boxes=_boxes(row, options, where),
        background=None,
        mask_threshold=options.mask_threshold or card.ground_truth.mask_threshold,
    )


def _split(card: Card, row: dict[str, str], options: CsvOptions, where: str) -> str:
    if options.split is None:
        return "train"
    value = row[options.split].strip()
    known = options.splits or {split: split for split in card.splits}
    if value not in known:
        raise DataError(f"{where}: {options.split} is '{value}'; {nearest_names(value, known)}")
    return known[value]


def _key(image: str, where: str) -> str:
    if not Path(image).name.strip(" ."):
        raise DataError(f"{where}: no image is named; mend it")
    return str(Path(image).with_suffix("")).replace("/", "__").replace(".", "_")


def _boxes(row: dict[str, str], options: CsvOptions, where: str) -> tuple[Box, ...]:
    if not options.boxes or not all(row[column].strip() for column in options.boxes):
        return ()
    try:
        x0, y0, x1, y1 = (float(row[column]) for column in options.boxes)
    except ValueError:
        raise DataError(f"{where}: {', '.join(options.boxes)} are not four numbers; mend it") from None
    return ((x0, y0, x1, y1),)
