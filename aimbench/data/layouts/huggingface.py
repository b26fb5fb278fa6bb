"""A Hugging Face dataset: saved with ``save_to_disk``, or a folder of Parquet files as on the hub.

``aimbench data fetch`` brings a dataset of the hub into such a folder. No
code of a dataset is run, and paths in a table are not followed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.layouts.held_out import hold_out
from aimbench.data.layouts.labels import Labels, TableOptions, make_labels
from aimbench.data.layouts.options import read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder
from aimbench.data.recipes import Recipes
from aimbench.data.samples import Box, Recipe
from aimbench.data.tables import Cell, hugging_face_datasets, share_table
from aimbench.errors import DataError, nearest_names

_BATCH = 1_000
"""Rows that are read at a time."""

_SPLIT_OF_FILE = re.compile(r"^([A-Za-z_]+)[-.].*parquet$")


class HuggingFaceOptions(TableOptions):
    """Options of the layout ``huggingface``."""

    source: str = Field(default="images", description="Source that holds the saved dataset or its Parquet files.")
    splits: dict[str, str] = Field(min_length=1, description="Split -> split of the dataset.")
    key: str | None = Field(default=None, description="Column of the sample's name; without one the row's number.")
    boxes: str | None = Field(default=None, description="Column of x0, y0, x1, y1 in pixels, or of a list of such.")
    names: Literal["compare", "ignore"] = Field(
        default="compare",
        description="The dataset's own names of classes and places: class names must be the card's; or, where they are "
        "known to be wrong, all are ignored and indices count.",
    )


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans a dataset of Arrow tables; the encoded images pass through untouched.

    Raises:
        DataError: If a split or column is missing, or the class names are not the card's.
    """
    options = read_options(HuggingFaceOptions, card, variant)
    folder = raw.open(card, options.source)
    tables = _open_tables(folder, raw.cache)
    wanted = {split: _wanted(tables, theirs, options, card, folder) for split, theirs in options.splits.items()}
    labels = make_labels(
        card,
        options.model_copy(update={"places": options.places or _place_names(wanted, options)}),
        (row["label"] for table in wanted.values() for row in _rows(table, options)),
        (row["place"] for table in wanted.values() for row in _rows(table, options)),
    )
    recipes = Recipes(
        recipe
        for split, table in wanted.items()
        for recipe in _recipes(table, split, options.splits[split], options, card, labels)
    )
    hold_out(recipes, options.validation_share, seed)
    return Plan(recipes=recipes, classes=labels.classes, groups=labels.groups, places=labels.places)


def _place_names(tables: dict[str, Any], options: HuggingFaceOptions) -> list[str]:
    """The dataset's own names of places in their own order; empty if it has none."""
    if options.place is None or options.names == "ignore":
        return []
    features = next(iter(tables.values())).features
    return list(getattr(features[options.place], "names", None) or ())


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


def _wanted(tables: dict[str, Any], theirs: str, options: HuggingFaceOptions, card: Card, folder: Path) -> Any:
    """The table of one of their splits, after a look at its columns and class names."""
    if theirs not in tables:
        raise DataError(f"{folder} has no split '{theirs}'; {nearest_names(theirs, tables)}")
    table, where = tables[theirs], f"{folder}, split {theirs}"
    for column in (options.image, options.mask, *_columns(options).values()):
        if column is not None and column not in table.column_names:
            raise DataError(f"{where} has no column '{column}'; {nearest_names(column, table.column_names)}")
    if options.names == "compare":
        _check_names(table, options.label, options.class_names or card.classes, where)
    return table


def _columns(options: HuggingFaceOptions) -> dict[str, str | None]:
    """What a row says beside its images -> the column."""
    return {
        "label": options.label,
        "group": options.group,
        "place": options.place,
        "key": options.key,
        "boxes": options.boxes,
    }


def _rows(table: Any, options: HuggingFaceOptions) -> Iterator[dict[str, Any]]:
    """Yields the values of each row, with class indices as names; None where there is no column."""
    columns = {what: column for what, column in _columns(options).items() if column is not None}
    names = {
        what: getattr(table.features[column], "names", None) if options.names == "compare" else None
        for what, column in columns.items()
    }
    for batch in table.select_columns(sorted(set(columns.values()))).iter(_BATCH):
        for i in range(len(batch[options.label])):
            row = dict.fromkeys(_columns(options))
            yield row | {what: _named(batch[column][i], names[what]) for what, column in columns.items()}


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    return names[value] if 0 <= value < len(names) else value


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
    table: Any, split: str, theirs: str, options: HuggingFaceOptions, card: Card, labels: Labels
) -> Iterator[Recipe]:
    name = f"{card.name} {theirs}, {len(table)} rows, {table.data.nbytes} bytes"
    share_table(name, table)
    has_mask = table.data.column(options.mask).is_valid().to_pylist() if options.mask else [False] * len(table)
    for number, row in enumerate(_rows(table, options)):
        where, key = f"{name}, row {number}", row["key"]
        y, group, place = labels.read(row["label"], row["group"], row["place"], where)
        yield Recipe(
            split=split,
            key=f"{theirs}-{number:07d}" if key is None else str(key).replace(".", "_").replace("/", "__"),
            label=y,
            group=group,
            place=place,
            source=f"{theirs}/{number}" if key is None else str(key),
            image=Cell(name, number, options.image),
            mask=Cell(name, number, options.mask) if options.mask and has_mask[number] else None,
            boxes=_boxes(row["boxes"], where),
            background=None,
            mask_threshold=options.mask_threshold or card.ground_truth.mask_threshold,
        )


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
    try:
        if value and isinstance(value[0], int | float):
            value = [value]
        return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in value or ())
    except (TypeError, ValueError):
        raise DataError(f"{where}: boxes are not lists of four numbers; mend the dataset") from None
