"""Subsets of train by a ranking of its images, e.g. by how strong their spurious cues are."""

import csv
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn

from pydantic import Field

from aimbench.cards import Card
from aimbench.data.layouts.options import Options
from aimbench.data.raw import RawFolder, member
from aimbench.data.recipes import Recipes
from aimbench.errors import DataError

FIRST, LAST = "test_first_ranked", "test_last_ranked"
"""Test conditions of ``apart``."""


class Ranks(Options):
    """A subset of train by rank."""

    files: dict[str, str] = Field(
        min_length=1,
        description="Source -> file in it, the first source that is there: a CSV with columns class, file and rank, "
        "or a pickled dictionary of a list of paths CLASS/FILE for each class, in the order of their ranks.",
    )
    each: int = Field(gt=0, description="Images of an end, a class.")
    take: Literal["ends", "first", "last", "apart"] = Field(
        default="ends",
        description="What train and val keep: both ends, the first or the last ranked; or all but the ends, which "
        f"become the test conditions {FIRST} and {LAST}.",
    )


def keep_ranked(raw: RawFolder, card: Card, ranks: Ranks, recipes: Recipes) -> None:
    """Changes train and val by each class' ranking; test stays whole, and images without a rank go.

    Raises:
        DataError: If the ranking is missing or malformed, or a class is too small for two ends apart.
    """
    by_name: dict[tuple[str, ...], tuple[int, int]] = {}
    for number, recipe in recipes.numbered():
        if recipe.split in ("train", "val"):
            by_name[PurePosixPath(recipe.source).parts[-2:]] = (recipe.label, number)
    ranked: dict[int, dict[int, int]] = {}
    for rank, class_folder, file in _read(_find(raw, card, ranks)):
        # Ranked images that have no mask, or that a partial tree lacks, are passed over.
        if (class_folder, file) in by_name:
            label, number = by_name[class_folder, file]
            ranked.setdefault(label, {})[number] = rank
    first: set[int] = set()
    last: set[int] = set()
    for label, ranks_of in ranked.items():
        ordered = sorted(ranks_of, key=lambda number: (ranks_of[number], number))
        if ranks.take == "apart" and len(ordered) <= 2 * ranks.each:
            raise DataError(
                f"{card.name}: class {label} has {len(ordered)} ranked images, too few for {ranks.each} of either end "
                "and some to train on; complete the raw folder"
            )
        first.update(ordered[: ranks.each])
        last.update(ordered[-ranks.each :])
    everything = {number for _, number in by_name.values()}
    if ranks.take == "apart":
        kept = {number for ranks_of in ranked.values() for number in ranks_of}
        recipes.move(first, FIRST)
        recipes.move(last, LAST)
    else:
        kept = {"ends": first | last, "first": first, "last": last}[ranks.take]
    recipes.remove(everything - kept)


def _find(raw: RawFolder, card: Card, ranks: Ranks) -> Path:
    for source, file in ranks.files.items():
        if raw.has(card.source(source)):
            path = member(raw.open(card, source), file)
            if path.is_file():
                return path
    wanted = " or ".join(f"{file} of {card.source(source).archive}" for source, file in ranks.files.items())
    raise DataError(f"{raw.root} has no ranking: put {wanted} there")


def _read(path: Path) -> Iterator[tuple[int, str, str]]:
    return _read_pickle(path) if path.suffix == ".pkl" else _read_csv(path)


def _read_csv(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields (rank, class folder, file name)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    yield int(row["rank"]), row["class"], row["file"]
                except (TypeError, ValueError):  # a short line has None there
                    raise DataError(
                        f"{path}, line {number}: rank '{row['rank']}' is no whole number; mend it"
                    ) from None
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV with columns class, file, rank ({error}); mend it") from None


def _read_pickle(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields (rank, class folder, file name); the rank is the place in the class' list."""
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
        for paths in content.values():
            for rank, name in enumerate(paths, start=1):
                class_folder, file_name = PurePosixPath(name).parts[-2:]
                yield rank, class_folder, file_name
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is no pickled dictionary of lists of paths ({error}); get the official archive"
        ) from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers alone: what needs a class or a function could run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to other files")
