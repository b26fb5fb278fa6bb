"""Writes samples into WebDataset tar files, the same bytes for the same samples.

A sample is ``<key>.<jpg|jpeg|png>``, ``<key>.json`` and, where there is one,
``<key>.mask.png``, in this order. Nothing of the machine goes into a tar: no
times, users or permissions.
"""

import hashlib
import io
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimbench.data.manifest import ShardInfo, sha256_of
from aimbench.data.samples import Sample

MAX_SAMPLES = 2_000
MAX_BYTES = 256 * 1024 * 1024
MEMBERS = ("image", "json", "mask")
"""Order of a sample's members in a tar, and of the columns that locate them in the index."""


def shard_name(name: str, variant: str, split: str, number: int) -> str:
    """Returns e.g. ``waterbirds-95-train-000003.tar``."""
    return f"{name}-{variant}-{split}-{number:06d}.tar"


@dataclass
class ShardWriter:
    """Appends the samples of one split to shards of limited size.

    After ``close``, ``shards`` and ``rows`` hold what was written.
    """

    folder: Path
    name: str
    variant: str
    split: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    shards: list[ShardInfo] = field(default_factory=list)
    _tar: tarfile.TarFile | None = None
    _count: int = 0

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
            "shard": self._file,
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
        self.rows.append(row)
        self.digests.append(sample_digest(recipe.split, recipe.key, digests))
        self._count += 1
        if self._count >= MAX_SAMPLES or tar.offset >= MAX_BYTES:
            self.close()

    @property
    def _file(self) -> str:
        return shard_name(self.name, self.variant, self.split, len(self.shards))

    def _open(self) -> tarfile.TarFile:
        if self._tar is None:
            self._tar = tarfile.open(self.folder / self._file, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        return self._tar

    def close(self) -> None:
        """Ends the open shard and hashes it."""
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        path = self.folder / self._file
        self.shards.append(
            ShardInfo(
                file=path.name,
                split=self.split,
                count=self._count,
                bytes=path.stat().st_size,
                sha256=sha256_of(path),
            )
        )
        self._count = 0


def member_digest(suffix: str, data: bytes) -> str:
    """Returns ``suffix:sha256`` of one member of a sample."""
    return f"{suffix}:{hashlib.sha256(data).hexdigest()}"


def sample_digest(split: str, key: str, members: list[str]) -> str:
    """Returns the line of one sample that goes into the dataset's fingerprint."""
    return "\t".join([split, key, *members])


def fingerprint(sample_digests: list[str]) -> str:
    """Returns the sha256 over all samples; it does not depend on the order or the size of the shards."""
    return hashlib.sha256("\n".join(sorted(sample_digests)).encode()).hexdigest()


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Adds a member and returns the offset of its first byte in the tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded
