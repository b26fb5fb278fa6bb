"""Reads object boxes as ImageNet ships them: VOC XML files, or ``LOC_*_solution.csv``."""

import csv
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from aimbench.errors import DataError

Box = tuple[float, float, float, float]


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
        name: Only objects of this ``<name>`` count, e.g. a WordNet id; empty: all.

    Raises:
        DataError: If the file is missing, not such XML, or defines entities.
    """
    root = _parse(path)
    try:
        size = (_number(root, "size/width"), _number(root, "size/height"))
        boxes = tuple(
            tuple(_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            for entry in root.findall("object")
            if not name or entry.findtext("name", "").strip() == name
        )
    except ValueError as error:
        raise _no_voc(path, error) from None
    if min(size) < 1:
        raise DataError(f"annotation {path} states a size of {size[0]:g}x{size[1]:g}; get the official archive")
    return VocBoxes(tuple((b[0], b[1], b[2], b[3]) for b in boxes), int(size[0]), int(size[1]))


def read_voc_name(path: Path) -> str:
    """Returns the ``<name>`` of the first object of a VOC file, e.g. a WordNet id; empty if it has none.

    Raises:
        DataError: If the file is missing, not XML, or defines entities.
    """
    return (_parse(path).findtext("object/name") or "").strip()


def read_solution_boxes(path: Path) -> dict[str, list[tuple[str, Box]]]:
    """Reads ``LOC_train_solution.csv`` or ``LOC_val_solution.csv``.

    Args:
        path: CSV with columns ``ImageId`` and ``PredictionString``, the latter ``wnid x0 y0 x1 y1`` repeated.

    Returns:
        For each image, its (WordNet id, box) pairs in pixels of the original image.

    Raises:
        DataError: Naming file and line, if a line is malformed.
    """
    boxes: dict[str, list[tuple[str, Box]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    words = row["PredictionString"].split()
                    if not words or len(words) % 5:
                        raise ValueError("not a multiple of five words")
                    boxes[row["ImageId"]] = [
                        (words[i], (float(words[i + 1]), float(words[i + 2]), float(words[i + 3]), float(words[i + 4])))
                        for i in range(0, len(words), 5)
                    ]
                except (KeyError, ValueError, AttributeError) as error:
                    raise DataError(
                        f"{path}, line {number}: not 'ImageId,PredictionString' with 'wnid x0 y0 x1 y1' ({error}); "
                        "get the official file"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} can't be read ({error}); get the official file") from None
    return boxes


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
