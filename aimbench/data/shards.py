"""Writes samples into WebDataset tar files, the same bytes for the same samples.

A sample is ``<key>.<jpg|jpeg|png>``, ``<key>.json`` and, where there is one,
``<key>.mask.png``, in this order. Nothing of the machine goes into a tar: no
times, users or permissions.
"""

import hashlib
import io
import itertools
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimbench.data.manifest import ShardInfo, sha256_of
from aimbench.data.samples import Sample
from aimbench.data.spill import temporary_database

if TYPE_CHECKING:
    import pyarrow as pa

MAX_SAMPLES = 2_000
MAX_BYTES = 256 * 1024 * 1024
MEMBERS = ("image", "json", "mask")
"""Order of a sample's members in a tar, and of the columns that locate them in the index."""


def shard_name(name: str, variant: str, split: str, number: int) -> str:
    """Returns e.g. ``waterbirds-95-train-000003.tar``."""
    return f"{name}-{variant}-{split}-{number:06d}.tar"


_COLUMNS = {
    "split": "string",
    "key": "string",
    "label": "int64",
    "group": "int64",
    "place": "int64",
    "has_mask": "bool",
    "foreground_share": "float64",
    "num_boxes": "int64",
    "box_share": "float64",
    "shard": "string",
    **{f"{member}_{column}": "int64" for member in MEMBERS for column in ("offset", "size", "crc32")},
}
"""Columns of the index and their types."""

_NOTES = {"digest": "string", "traits": "string"}
"""Columns that only the build needs."""


@dataclass
class ShardWriter:
    """Appends the samples of one split to shards of limited size.

    A shard that is full is hashed, and its rows are written beside it into
    ``parts``; only then is it finished. So memory does not grow with the
    dataset, and a build that was killed goes on behind its last finished shard.
    """

    folder: Path
    parts: Path
    name: str
    variant: str
    split: str
    number: int = 0
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tar: tarfile.TarFile | None = None

    def add(self, sample: Sample) -> None:
        """Writes one sample and notes where its members lie."""
        tar = self._open()
        recipe = sample.recipe
        row: dict[str, Any] = {
            "split": recipe.split,
            "key": recipe.key,
            "label": recipe.label,
            "group": recipe.group,
            "place": recipe.place,
            "has_mask": sample.mask is not None,
            "foreground_share": sample.foreground_share,
            "num_boxes": sample.num_boxes,
            "box_share": sample.box_share,
            "shard": self._file,
            "traits": ",".join(sample.traits),
        }
        contents = {
            "image": (sample.suffix, sample.image),
            "json": ("json", sample.meta),
            "mask": ("mask.png", sample.mask),
        }
        digests = []
        for member in MEMBERS:
            suffix, data = contents[member]
            row |= {f"{member}_offset": -1, f"{member}_size": 0, f"{member}_crc32": 0}
            if data is None:
                continue
            row[f"{member}_offset"] = _append(tar, f"{recipe.key}.{suffix}", data)
            row[f"{member}_size"] = len(data)
            row[f"{member}_crc32"] = zlib.crc32(data)
            digests.append(member_digest(suffix, data))
        row["digest"] = sample_digest(recipe.split, recipe.key, digests)
        self._rows.append(row)
        if len(self._rows) >= MAX_SAMPLES or tar.offset >= MAX_BYTES:
            self.close()

    @property
    def _file(self) -> str:
        return shard_name(self.name, self.variant, self.split, self.number)

    def _open(self) -> tarfile.TarFile:
        if self._tar is None:
            self._tar = tarfile.open(self.folder / self._file, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        return self._tar

    def close(self) -> None:
        """Ends the open shard, hashes it and writes its rows; from then on it is finished."""
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        path = self.folder / self._file
        info = ShardInfo(
            file=path.name,
            split=self.split,
            count=len(self._rows),
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )
        _write_part(self.parts / f"{path.stem}.parquet", self._rows, info)
        self._rows = []
        self.number += 1


def finished_keys(folder: Path, parts: Path, name: str, variant: str, split: str) -> Iterator[list[str]]:
    """Yields the keys of each finished shard of a split, up to the first that is absent or changed."""
    for number in itertools.count():
        file = shard_name(name, variant, split, number)
        part = (parts / file).with_suffix(".parquet")
        if not part.is_file():
            return
        table, info = read_part(part)
        if not (folder / file).is_file() or sha256_of(folder / file) != info.sha256:
            part.unlink()
            return
        yield table["key"].to_pylist()


def read_part(path: Path) -> tuple["pa.Table", ShardInfo]:
    """Returns the rows of a finished shard, with the columns that only the build needs, and what it is."""
    import pyarrow.parquet as pq

    # Not read_table, which holds 60 MB of its own.
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    return table, ShardInfo.model_validate_json(table.schema.metadata[b"shard"])


def index_schema() -> "pa.Schema":
    """Returns the columns of ``index.parquet``."""
    return _schema(_COLUMNS)


def _schema(columns: dict[str, str]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


def _write_part(path: Path, rows: list[dict[str, Any]], info: ShardInfo) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=_schema({**_COLUMNS, **_NOTES}))
    table = table.replace_schema_metadata({"shard": info.model_dump_json()})
    # The name appears at once and whole: it is what says that the shard is finished.
    temporary = path.with_suffix(".writing")
    pq.write_table(table, temporary)
    temporary.rename(path)


def member_digest(suffix: str, data: bytes) -> str:
    """Returns ``suffix:sha256`` of one member of a sample."""
    return f"{suffix}:{hashlib.sha256(data).hexdigest()}"


def sample_digest(split: str, key: str, members: list[str]) -> str:
    """Returns the line of one sample that goes into the dataset's fingerprint."""
    return "\t".join([split, key, *members])


def image_digest(sample: str) -> str:
    """Returns the sha256 of a sample's image, of its line of ``sample_digest``."""
    return sample.split("\t")[2].rpartition(":")[2]


class Fingerprint:
    """The sha256 over all samples; it does not depend on the order or the size of the shards."""

    def __init__(self) -> None:
        self._lines = temporary_database("CREATE TABLE lines (line TEXT)")

    def add(self, sample_digests: Iterable[str]) -> None:
        """Adds lines of ``sample_digest``."""
        self._lines.executemany("INSERT INTO lines VALUES (?)", ((line,) for line in sample_digests))

    def hexdigest(self) -> str:
        """Returns the hash as 64 hex digits."""
        digest = hashlib.sha256()
        for number, (line,) in enumerate(self._lines.execute("SELECT line FROM lines ORDER BY line")):
            digest.update(f"{chr(10) if number else ''}{line}".encode())
        return digest.hexdigest()


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Adds a member and returns the offset of its first byte in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded
