"""Finds photographs that a dataset holds more than once, byte for byte."""

from collections.abc import Iterable
from typing import NamedTuple

from aimbench.data.spill import temporary_database


class Same(NamedTuple):
    """Photographs that are there in two ways.

    Attributes:
        number: Of different photographs.
        one: Split and key of a sample that shows the first of them.
        other: Of a sample that shows it in the other way.
    """

    number: int
    one: tuple[str, str]
    other: tuple[str, str]


class SameImages:
    """The digests of all images, in a temporary database."""

    def __init__(self) -> None:
        self._images = temporary_database("CREATE TABLE images (digest TEXT, split TEXT, label INTEGER, key TEXT)")

    def add(self, digests: Iterable[str], splits: Iterable[str], labels: Iterable[int], keys: Iterable[str]) -> None:
        """Adds samples, each with the digest of its image."""
        rows = zip(digests, splits, labels, keys, strict=True)
        self._images.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", rows)

    def in_train_and_elsewhere(self) -> Same | None:
        """Photographs of ``train`` that are in another split too."""
        return self._that_differ_in("split <> 'train'")

    def of_two_classes(self) -> Same | None:
        """Photographs that have more than one label."""
        return self._that_differ_in("label")

    def _that_differ_in(self, value: str) -> Same | None:
        """Photographs whose samples have several values of an SQL expression."""
        found = self._images.execute(
            f"SELECT digest FROM images GROUP BY digest HAVING min({value}) < max({value}) ORDER BY min(key)"
        )
        first = found.fetchone()
        if first is None:
            return None
        number = 1 + sum(1 for _ in found)
        samples = self._images.execute(
            f"SELECT split, key FROM images WHERE digest = ? ORDER BY {value}, split, key", first
        ).fetchall()
        return Same(number, samples[0], samples[-1])
