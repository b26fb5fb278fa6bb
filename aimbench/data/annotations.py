"""Reads object boxes as ImageNet ships them: VOC XML files, or ``LOC_*_solution.csv``."""

import csv
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aimbench.data.spill import temporary_database
from aimbench.errors import DataError

Box = tuple[float, float, float, float]
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class VocBoxes:
    """Boxes of one VOC file.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of an image of ``width`` x ``height``.
        width: Of the annotated image, in pixels.
        height: Of the annotated image, in pixels.
    """

    boxes: tuple[Box, ...]
    width: int
    height: int


def read_voc_boxes(path: Path, name: str = "") -> VocBoxes:
    """Reads a VOC XML file.

    Args:
        path: File with ``<size>`` and ``<object>`` elements.
        name: Only objects of this ``<name>`` count; empty: all. Of a WordNet id, those count as well whose name is no
            WordNet id: ImageNet's training annotations call many dogs by their breed.

    Raises:
        DataError: If the file is missing, not such XML, or defines entities.
    """
    root = _parse(path)
    try:
        size = (_number(root, "size/width"), _number(root, "size/height"))
        boxes = tuple(
            tuple(_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            for entry in root.findall("object")
            if _is_named(entry.findtext("name", "").strip(), name)
        )
    except ValueError as error:
        raise _no_voc(path, error) from None
    if not all(math.isfinite(side) and side >= 1 for side in size):
        raise DataError(f"annotation {path} states a size of {size[0]:g}x{size[1]:g}; get the official archive")
    return VocBoxes(tuple((b[0], b[1], b[2], b[3]) for b in boxes), int(size[0]), int(size[1]))


def _is_named(found: str, wanted: str) -> bool:
    if not wanted or found == wanted:
        return True
    return bool(_WORDNET_ID.fullmatch(wanted)) and not _WORDNET_ID.fullmatch(found)


def read_voc_name(path: Path) -> str:
    """Returns the ``<name>`` of the first object of a VOC file, e.g. a WordNet id; empty if it has none.

    Raises:
        DataError: If the file is missing, not XML, or defines entities.
    """
    return (_parse(path).findtext("object/name") or "").strip()


class SolutionBoxes:
    """The boxes of ``LOC_train_solution.csv`` and ``LOC_val_solution.csv``, on disk: ImageNet's list half a million.

    Args:
        paths: CSVs with columns ``ImageId`` and ``PredictionString``, the latter ``wnid x0 y0 x1 y1`` repeated; a later
            line of an image goes before an earlier one.

    Raises:
        DataError: Naming file and line, if a line is malformed.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._database = temporary_database("CREATE TABLE images (name TEXT PRIMARY KEY, boxes TEXT) WITHOUT ROWID")
        for path in paths:
            self._database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?)", _solution_lines(path))

    def of(self, image: str) -> list[tuple[str, Box]]:
        """Returns the (WordNet id, box) pairs of an image, in pixels of the original image."""
        found = self._database.execute("SELECT boxes FROM images WHERE name = ?", (image,)).fetchone()
        return [] if found is None else _parse_solution(found[0])


def _solution_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (image, its boxes as text) of each line, after trying to read it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    image, text = row["ImageId"], row["PredictionString"]
                    _parse_solution(text)
                except (KeyError, ValueError, AttributeError) as error:
                    raise DataError(
                        f"{path}, line {number}: not 'ImageId,PredictionString' with 'wnid x0 y0 x1 y1' ({error}); "
                        "get the official file"
                    ) from None
                yield image, text
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} can't be read ({error}); get the official file") from None


def _parse_solution(text: str) -> list[tuple[str, Box]]:
    words = text.split()
    if not words or len(words) % 5:
        raise ValueError("not a multiple of five words")
    return [
        (words[i], (float(words[i + 1]), float(words[i + 2]), float(words[i + 3]), float(words[i + 4])))
        for i in range(0, len(words), 5)
    ]


def _parse(path: Path) -> ElementTree.Element:
    try:
        text = path.read_bytes()
        # Annotations need no entities; those of a hostile file expand without end.
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise DataError(f"annotation {path} has a DOCTYPE; get the official archive")
        return ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError) as error:
        raise _no_voc(path, error) from None


def _no_voc(path: Path, error: Exception) -> DataError:
    return DataError(f"annotation {path} is not a VOC file ({error}); get the official archive")


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return float(text)
