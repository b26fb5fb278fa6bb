"""Images that lie in an Arrow table rather than in files: Hugging Face datasets, local or cached.

A recipe names a cell; the processes of a build are forked, so that they share the open tables.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from aimbench.errors import DataError

_OPEN: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a table.

    Attributes:
        table: Name under which the table was opened; it names the content, so that a changed table differs.
        row: Row of the table.
        column: Column that holds the image.
    """

    table: str
    row: int
    column: str

    def __str__(self) -> str:
        return f"row {self.row}, column '{self.column}' of {self.table}"


def hugging_face_datasets() -> Any:
    """Returns the library ``datasets``; type checkers would take this repository's folder of cards for it."""
    return importlib.import_module("datasets")


def share_table(name: str, table: Any) -> None:
    """Makes an open ``datasets.Dataset``, whose images are not decoded, known to this process and its forks."""
    _OPEN[name] = table


def read_cell(cell: Cell, where: str) -> bytes:
    """Returns the encoded image of a cell.

    Raises:
        DataError: Naming ``where``, if the cell is empty or only names a file elsewhere.
    """
    if cell.table not in _OPEN:
        raise DataError(f"{where}: table {cell.table} is not open in this process; build with --workers 1")
    value = _OPEN[cell.table][cell.row][cell.column]
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        # A path in a table that comes from elsewhere may point anywhere, so it is not followed.
        raise DataError(f"{where}: {cell} holds no image bytes; save the dataset with its images embedded")
    return data
