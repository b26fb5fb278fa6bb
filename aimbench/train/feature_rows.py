"""Feature arrays on disk whose rows are checked when they are first read.

A file holds two NumPy arrays, one after the other as :func:`numpy.save` writes them: the rows, ``(N, ...)``, and
the CRC-32 of each, ``(N,)``. The sums are those of the values in memory, so that a disk that kept others is noticed.
"""

import zlib
from pathlib import Path
from tokenize import TokenError  # of a header that NumPy reads as Python

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimbench.errors import DataError

Rows = npt.NDArray[np.generic]


class RowWriter:
    """Rows that are put in any order into a file of a known size.

    Args:
        path: where the file goes.
        size: number of rows.
        like: some rows, of the others' type and shape.
    """

    def __init__(self, path: Path, size: int, like: Rows) -> None:
        self._path = path
        self._rows = np.lib.format.open_memmap(path, mode="w+", dtype=like.dtype, shape=(size, *like.shape[1:]))
        self._sums = np.zeros(size, np.uint32)

    def put(self, positions: npt.NDArray[np.int64], block: Rows) -> None:
        """Writes ``block``, ``(B, ...)``, as the rows at ``positions``, ``(B,)``."""
        self._rows[positions] = block
        self._sums[positions] = row_sums(block)

    def close(self) -> None:
        """Completes the file; before, it can't be read."""
        self._rows.flush()
        with self._path.open("ab") as file:
            np.save(file, self._sums)


class FeatureRows:
    """Rows of a file, mapped into memory and read from disk as they are touched.

    Raises:
        DataError: the file is cut or is none of a :class:`RowWriter`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            rows = np.load(path, mmap_mode="c")
            with path.open("rb") as file:
                file.seek(rows.offset + rows.nbytes)
                self._sums = np.load(file)
            self._rows = torch.from_numpy(rows)
        except (ValueError, EOFError, TypeError, SyntaxError, TokenError) as error:
            raise self._damaged(str(error)) from error
        if self._sums.shape != rows.shape[:1]:
            raise self._damaged(f"{len(rows)} rows, {len(self._sums)} sums")
        self._unread = np.ones(len(rows), bool)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: Tensor) -> Tensor:
        """The rows at ``positions``, ``(B,)``, as ``(B, ...)``.

        Raises:
            DataError: one is not what was written.
        """
        # index_select copies whole rows; rows[positions] gathers value by value, four times slower.
        taken = self._rows.index_select(0, positions)
        index = positions.numpy()
        new = self._unread[index]
        if new.any():
            wrong = row_sums(taken.numpy()[new]) != self._sums[index[new]]
            if wrong.any():
                raise self._damaged(f"row {index[new][wrong][0]} changed after it was written")
            self._unread[index] = False
        return taken

    def _damaged(self, problem: str) -> DataError:
        return DataError(
            f"cached features {self._path} are damaged ({problem}); remove {self._path.parent}, and they are computed"
            " anew"
        )


def row_sums(block: Rows) -> npt.NDArray[np.uint32]:
    """CRC-32 of each row of ``block``, ``(B, ...)``, as ``(B,)``."""
    return np.array([zlib.crc32(row.tobytes()) for row in block], np.uint32)
