"""Reads the saved per-sample predictions of a record."""

import hashlib
from typing import TYPE_CHECKING

from aimbench.errors import RecordError, nearest_names
from aimbench.record import Record
from aimbench.results.store import Store, parquet_name

if TYPE_CHECKING:
    import pandas as pd


def read_table(store: Store, record: Record, content: str) -> "pd.DataFrame":
    """Reads a record's Parquet file; ``content`` is ``predictions`` or ``epochs``.

    Raises:
        RecordError: If the record lists no such file, or it is missing or changed.
    """
    import pandas as pd

    name = parquet_name(record.id, content)
    path = store.records / record.dataset.name / name
    if name not in record.files:
        raise RecordError(f"record {record.id} lists no {content}; run it again")
    if not path.is_file():
        raise RecordError(f"record {record.id}: {path} is missing; restore it or run it again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.files[name]:
        raise RecordError(f"record {record.id}: {path} changed after the run (sha256); restore it or run it again")
    return pd.read_parquet(path)


def read_predictions(store: Store, record: Record, split: str) -> "pd.DataFrame":
    """Predictions of one split, indexed by sample key.

    Raises:
        RecordError: If the file can't be read, has no such split, or repeats a sample.
    """
    table = read_table(store, record, "predictions")
    rows = table[table["split"] == split].set_index("key")
    if rows.empty:
        splits = sorted(map(str, table["split"].unique()))
        raise RecordError(f"record {record.id} has no predictions of '{split}'; {nearest_names(split, splits)}")
    if not rows.index.is_unique:
        key = rows.index[rows.index.duplicated()][0]
        raise RecordError(f"record {record.id}: sample '{key}' comes more than once in '{split}'; run it again")
    return rows


def predicted_classes(store: Store, record: Record, split: str = "test") -> dict[str, int]:
    """Class index that a record holds for each sample of a split, by key; raises as `read_predictions`."""
    said = read_predictions(store, record, split)["prediction"]
    return dict(zip(said.index, said, strict=True))
