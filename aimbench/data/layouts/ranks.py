"""Subsets of train by a ranking of its images, e.g. from most to least spurious."""

import csv
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from aimbench.data.layouts.options import Options
from aimbench.data.raw import member
from aimbench.data.samples import Recipe
from aimbench.errors import DataError


class Ranks(Options):
    """A subset of train by rank: a CSV with columns ``class``, ``file`` and ``rank``, 1 the most spurious."""

    source: str
    file: str
    each: int = Field(gt=0, description="Images kept of either end, a class.")


def keep_ranked(folder: Path, ranks: Ranks, recipes: list[Recipe]) -> list[Recipe]:
    """Of train and val, keeps the most and the least spurious images of each class; test stays whole.

    Raises:
        DataError: If the CSV is malformed.
    """
    by_source = {recipe.source: recipe for recipe in recipes if recipe.split in ("train", "val")}
    ranked: dict[int, list[tuple[int, str]]] = {}
    for number, (class_folder, file, rank) in _read_ranks(member(folder, ranks.file)):
        source = next((s for s in (f"train/{class_folder}/{file}", f"{class_folder}/{file}") if s in by_source), None)
        if source is None:
            continue  # ranked, but without a mask or absent from a partial tree
        try:
            ranked.setdefault(by_source[source].label, []).append((int(rank), source))
        except ValueError:
            raise DataError(f"{folder / ranks.file}, line {number}: rank '{rank}' is no whole number") from None
    kept: set[str] = set()
    for entries in ranked.values():
        ordered = [source for _, source in sorted(entries)]
        kept.update(ordered[: ranks.each] + ordered[-ranks.each :])
    return [recipe for recipe in recipes if recipe.split not in ("train", "val") or recipe.source in kept]


def _read_ranks(path: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                yield number, (row["class"], row["file"], row["rank"])
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV with columns class, file, rank ({error}); mend it") from None
