"""Subsets of train by a ranking of its images, e.g. from most to least spurious."""

import csv
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from pydantic import Field

from aimbench.cards import Card
from aimbench.data.layouts.options import Options
from aimbench.data.raw import RawFolder, member
from aimbench.data.samples import Recipe
from aimbench.errors import DataError


class Ranks(Options):
    """A subset of train by rank."""

    files: dict[str, str] = Field(
        min_length=1,
        description="Source -> file in it, the first source that is there: a CSV with columns class, file and rank, "
        "or a pickled dictionary of a list of paths CLASS/FILE for each class, in the order of their ranks.",
    )
    each: int = Field(gt=0, description="Images kept of either end, a class.")


def keep_ranked(raw: RawFolder, card: Card, ranks: Ranks, recipes: list[Recipe]) -> list[Recipe]:
    """Of train and val, keeps the images at both ends of each class' ranking; test stays whole.

    Raises:
        DataError: If the ranking is missing or malformed.
    """
    path = _find(raw, card, ranks)
    read = _read_pickle if path.suffix == ".pkl" else _read_csv
    by_name = {PurePosixPath(r.source).parts[-2:]: r for r in recipes if r.split in ("train", "val")}
    ranked: dict[int, list[tuple[int, str]]] = {}
    for rank, class_folder, file in read(path):
        recipe = by_name.get((class_folder, file))
        if recipe is not None:  # else it is ranked, but has no mask or is absent from a partial tree
            ranked.setdefault(recipe.label, []).append((rank, recipe.source))
    kept: set[str] = set()
    for entries in ranked.values():
        ordered = [source for _, source in sorted(entries)]
        kept.update(ordered[: ranks.each] + ordered[-ranks.each :])
    return [recipe for recipe in recipes if recipe.split not in ("train", "val") or recipe.source in kept]


def _find(raw: RawFolder, card: Card, ranks: Ranks) -> Path:
    for source, file in ranks.files.items():
        if raw.has(card.sources[source]):
            path = member(raw.open(card, source), file)
            if path.is_file():
                return path
    wanted = " or ".join(f"{file} of {card.sources[source].archive}" for source, file in ranks.files.items())
    raise DataError(f"{raw.root} has no ranking: put {wanted} there")


def _read_csv(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields (rank, class folder, file name)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    yield int(row["rank"]), row["class"], row["file"]
                except ValueError:
                    raise DataError(f"{path}, line {number}: rank '{row['rank']}' is no whole number") from None
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
