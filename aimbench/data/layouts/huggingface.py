"""A Hugging Face dataset: saved with ``save_to_disk``, or a folder of Parquet files as on the hub.

``aimbench data fetch`` brings a dataset of the hub into such a folder. No
code of a dataset is run, and paths in a table are not followed.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.layouts.held_out import hold_out
from aimbench.data.layouts.labels import TableOptions, make_labels
from aimbench.data.layouts.options import read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder
from aimbench.data.samples import Box, Recipe
from aimbench.data.tables import Cell, hugging_face_datasets, share_table
from aimbench.errors import DataError, nearest_names

_SPLIT_OF_FILE = re.compile(r"^([A-Za-z_]+)[-.].*parquet$")


class HuggingFaceOptions(TableOptions):
    """Options of the layout ``huggingface``."""

    source: str = Field(default="images", description="Source that holds the saved dataset or its Parquet files.")
    splits: dict[str, str] = Field(min_length=1, description="Split -> split of the dataset.")
    key: str | None = Field(default=None, description="Column of the sample's name; without one the row's number.")
    boxes: str | None = Field(default=None, description="Column of x0, y0, x1, y1 in pixels, or of a list of such.")


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans a dataset of Arrow tables; the encoded images pass through untouched.

    Raises:
        DataError: If a split or column is missing, or the class names are not the card's.
    """
    options = read_options(HuggingFaceOptions, card, variant)
    folder = raw.open(card, options.source)
    tables = _open_tables(folder, raw.cache)
    values: dict[str, dict[str, list[Any]]] = {}
    for split, theirs in options.splits.items():
        if theirs not in tables:
            raise DataError(f"{folder} has no split '{theirs}'; {nearest_names(theirs, tables)}")
        values[split] = _columns(tables[theirs], options, card, f"{folder}, split {theirs}")
    labels = make_labels(
        card,
        options,
        [value for columns in values.values() for value in columns["label"]],
        [value for columns in values.values() for value in columns["place"]],
    )
    recipes: list[Recipe] = []
    for split, theirs in options.splits.items():
        table = tables[theirs]
        name = f"{card.name} {theirs}, {len(table)} rows, {table.data.nbytes} bytes"
        share_table(name, table)
        recipes.extend(_recipes(name, split, theirs, values[split], options, card, labels.read))
    recipes = hold_out(recipes, options.validation_share, seed)
    return Plan(recipes=recipes, classes=labels.classes, groups=labels.groups, places=labels.places)


def _open_tables(folder: Path, cache: Path) -> dict[str, Any]:
    """Split -> table with encoded images."""
    datasets = hugging_face_datasets()

    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
            tables = (
                dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
            )
        else:
            files: dict[str, list[str]] = {}
            for path in sorted(folder.rglob("*.parquet")):
                files.setdefault(_split_of(path), []).append(str(path))
            if not files:
                raise DataError(f"{folder} holds neither a saved dataset nor Parquet files; put one of them there")
            tables = dict(datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache / "huggingface")))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{folder} can't be opened as a Hugging Face dataset ({error}); save it again") from None
    return {split: _undecoded(table) for split, table in tables.items()}


def _split_of(path: Path) -> str:
    """The split of a Parquet file: ``data/train-00000-of-00017.parquet``, or ``default/train/0000.parquet``."""
    match = _SPLIT_OF_FILE.match(path.name)
    if match:
        return match[1]
    # The hub's own conversion to Parquet names the folder after the split and numbers the files.
    return path.parent.name if path.stem.isdecimal() else path.stem


def _undecoded(table: Any) -> Any:
    datasets = hugging_face_datasets()

    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


def _columns(table: Any, options: HuggingFaceOptions, card: Card, where: str) -> dict[str, list[Any]]:
    """The values of all columns but the images, with class indices as names."""
    named = {
        "image": options.image,
        "label": options.label,
        "group": options.group,
        "place": options.place,
        "mask": options.mask,
        "key": options.key,
        "boxes": options.boxes,
    }
    columns: dict[str, list[Any]] = {}
    for what, column in named.items():
        if column is not None and column not in table.column_names:
            raise DataError(f"{where} has no column '{column}'; {nearest_names(column, table.column_names)}")
        if what in ("image", "mask"):
            continue
        columns[what] = [None] * len(table) if column is None else _named(table, column)
    _check_names(table, options.label, options.class_names or card.classes, where)
    return columns


def _named(table: Any, column: str) -> list[Any]:
    values = list(table[column])
    names = getattr(table.features[column], "names", None)
    if names is None:
        return values
    return [names[value] if value is not None and 0 <= value < len(names) else value for value in values]


def _check_names(table: Any, column: str, classes: list[str], where: str) -> None:
    names = getattr(table.features[column], "names", None)
    if names is None or not classes:
        return
    for i, (theirs, ours) in enumerate(zip(names, classes, strict=False)):
        if theirs != ours:
            raise DataError(f"{where}: class {i} is '{theirs}', on the card '{ours}'; it is another list of classes")
    if len(names) != len(classes):
        raise DataError(f"{where} has {len(names)} classes, the card {len(classes)}; it is another dataset")


def _recipes(
    name: str,
    split: str,
    theirs: str,
    values: dict[str, list[Any]],
    options: HuggingFaceOptions,
    card: Card,
    read: Any,
) -> list[Recipe]:
    recipes = []
    for row, (label, group, place, key, boxes) in enumerate(
        zip(*(values[what] for what in ("label", "group", "place", "key", "boxes")), strict=True)
    ):
        where = f"{name}, row {row}"
        y, g, at = read(label, group, place, where)
        own = f"{theirs}-{row:07d}" if key is None else str(key).replace(".", "_").replace("/", "__")
        recipes.append(
            Recipe(
                split=split,
                key=own,
                label=y,
                group=g,
                place=at,
                source=f"{theirs}/{row}" if key is None else str(key),
                image=Cell(name, row, options.image),
                mask=Cell(name, row, options.mask) if options.mask else None,
                boxes=_boxes(boxes, where),
                background=None,
                mask_threshold=options.mask_threshold or card.ground_truth.mask_threshold,
            )
        )
    return recipes


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
    try:
        if value and isinstance(value[0], int | float):
            value = [value]
        return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in value or ())
    except (TypeError, ValueError):
        raise DataError(f"{where}: boxes are not lists of four numbers; mend the dataset") from None
