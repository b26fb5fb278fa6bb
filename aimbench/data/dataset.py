"""Opens a built dataset: its card, its manifest, and its samples by index.

Nothing here decodes an image; an item is the bytes as they lie in the shard.
"""

import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimbench.cards import Card, load_card, parse_dataset
from aimbench.data.manifest import BUILDER_VERSION, Manifest, read_manifest, sha256_of
from aimbench.data.shards import MEMBERS
from aimbench.errors import DataError, nearest_names

Ints = npt.NDArray[np.int64]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One sample as stored.

    Attributes:
        key: Name of the sample, unique in its split.
        image: Bytes of the JPEG or PNG.
        mask: Bytes of a grey PNG of the image's size, 255 = object; None where there is none.
        boxes: Object boxes (x0, y0, x1, y1) in pixels of the stored image.
    """

    key: str
    image: bytes
    mask: bytes | None
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class SplitIndex:
    """The samples of one split, in the order of the shards. Picklable, and safe to share by fork.

    The order is a fixed shuffle, so that a stream with a small buffer sees all classes.

    Attributes:
        name: The split.
        keys: Name of each sample.
        label: Class index (N,).
        group: Group index (N,).
        place: Place index (N,), -1 where there is none.
        has_mask: Whether there is a ground-truth mask (N,).
        foreground_share: Share of the image that the mask covers (N,), NaN without a mask.
        shard: Index into ``shard_paths`` (N,).
        offsets: First byte of image, json and mask in the tar (N, 3), -1 where absent.
        sizes: Bytes of image, json and mask (N, 3).
        checksums: CRC-32 of image, json and mask (N, 3).
        shard_paths: The tar files, for streaming.
        rebuild: Command that builds the dataset again, for messages.
    """

    name: str
    keys: list[str]
    label: Ints
    group: Ints
    place: Ints
    has_mask: npt.NDArray[np.bool_]
    foreground_share: npt.NDArray[np.float64]
    shard: Ints
    offsets: Ints
    sizes: Ints
    checksums: Ints
    shard_paths: list[Path] = field(repr=False)
    rebuild: str = field(default="aimbench data build", repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> Item:
        """Reads sample ``i`` from its shard.

        Raises:
            DataError: If the shard is truncated or the bytes are not those that were written.
        """
        path = self.shard_paths[int(self.shard[i])]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"shard {path}: {error.strerror}; rebuild with '{self.rebuild}'") from None
        try:
            image, meta, mask = (self._member(handle, path, i, column) for column in range(len(MEMBERS)))
        finally:
            os.close(handle)
        assert image is not None
        assert meta is not None
        boxes = [(b[0], b[1], b[2], b[3]) for b in json.loads(meta)["boxes"]]
        return Item(self.keys[i], image, mask, boxes)

    def _member(self, handle: int, path: Path, i: int, column: int) -> bytes | None:
        size, offset = int(self.sizes[i, column]), int(self.offsets[i, column])
        if offset < 0:
            return None
        data = os.pread(handle, size, offset)
        if len(data) != size:
            problem = f"{MEMBERS[column]} is truncated ({len(data)} of {size} bytes)"
        elif zlib.crc32(data) != int(self.checksums[i, column]):
            problem = f"{MEMBERS[column]} is corrupt (its checksum differs from the index)"
        else:
            return data
        raise DataError(f"shard {path}, sample {self.keys[i]}: {problem}; rebuild with '{self.rebuild}'")


@dataclass(frozen=True)
class ShardDataset:
    """A built dataset variant.

    Attributes:
        card: The card it was built after.
        name: Dataset name.
        variant: Variant name.
        manifest: What was built.
        root: Folder of the shards.
    """

    card: Card
    name: str
    variant: str
    manifest: Manifest
    root: Path

    @classmethod
    def open(cls, name_at_variant: str, data_root: Path, cards_dir: Path | None = None) -> "ShardDataset":
        """Opens ``name@variant`` under ``data_root``; a mini variant that is absent or outdated is built first.

        Raises:
            CardError: If the dataset or the variant is unknown.
            DataError: If it is not built, or its files are not those of its manifest.
        """
        name, variant = parse_dataset(name_at_variant, cards_dir)
        card = load_card(name, cards_dir)
        folder = dataset_folder(data_root, name, variant)
        if card.variant(variant).mini:
            _ensure_mini(card, variant, folder, data_root, cards_dir)
        elif not folder.exists():
            raise DataError(_how_to_build(card, variant, data_root))
        return cls(card, name, variant, _checked_manifest(folder, name, variant), folder)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, val, test and further test conditions."""
        return tuple(self.manifest.splits)

    @property
    def rebuild(self) -> str:
        """The command that builds this dataset again."""
        raw = "" if self.card.variant(self.variant).mini else " --raw DIR"
        partial = " --partial" if self.manifest.kind == "partial" else ""
        return f"aimbench data build {self.name}@{self.variant}{raw}{partial} --data {self.root.parent.parent} --force"

    def split(self, split: str) -> SplitIndex:
        """Returns the samples of a split.

        Raises:
            DataError: If the dataset has no such split.
        """
        if split not in self.manifest.splits:
            raise DataError(f"{self.name}@{self.variant} has no split '{split}'; {nearest_names(split, self.splits)}")
        columns = self._columns
        rows = np.flatnonzero(columns["split"] == split)
        files = [shard.file for shard in self.manifest.shards if shard.split == split]
        number = {file: i for i, file in enumerate(files)}

        def members(suffix: str) -> Ints:
            stacked = np.stack([columns[f"{member}_{suffix}"][rows] for member in MEMBERS], axis=1)
            return stacked.astype(np.int64)

        return SplitIndex(
            name=split,
            keys=[str(key) for key in columns["key"][rows]],
            label=columns["label"][rows].astype(np.int64),
            group=columns["group"][rows].astype(np.int64),
            place=columns["place"][rows].astype(np.int64),
            has_mask=columns["has_mask"][rows].astype(bool),
            foreground_share=columns["foreground_share"][rows].astype(np.float64),
            shard=np.array([number[file] for file in columns["shard"][rows]], dtype=np.int64),
            offsets=members("offset"),
            sizes=members("size"),
            checksums=members("crc32"),
            shard_paths=[self.root / file for file in files],
            rebuild=self.rebuild,
        )

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        import pyarrow.parquet as pq

        table = pq.read_table(self.root / self.manifest.index.file)
        return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def dataset_folder(data_root: Path, name: str, variant: str) -> Path:
    """Returns where the shards of a variant lie."""
    return data_root / name / variant


def missing_sources(card: Card, sources: list[str]) -> Iterator[str]:
    """Yields one phrase for each source: archives, folder and what it must hold, URLs and checksum."""
    for name in sources:
        source = card.source(name)
        checksum = f"md5 {source.md5}" if source.md5 else f"sha256 {source.sha256}" if source.sha256 else ""
        hub = [f"https://huggingface.co/datasets/{source.hub}"] if source.hub else []
        places = [*source.urls, *source.pages, *hub] or ["no public address known"]
        origin = ", ".join([*places, *([checksum] if checksum else [])])
        holds = f" with {' and '.join(source.holds)}" if source.holds else ""
        yield f"{source.names} or the unpacked folder {source.folders[0]}/{holds} ({origin})"


def _ensure_mini(card: Card, variant: str, folder: Path, data_root: Path, cards_dir: Path | None) -> None:
    """Builds a mini that is absent, or that another version or other settings synthesised."""
    seed = None
    if folder.exists():
        from aimbench.data.synth import synthesis_digest

        manifest = read_manifest(folder)
        if (manifest.builder_version, manifest.synthesis) == (BUILDER_VERSION, synthesis_digest(card.variant(variant))):
            return
        seed = manifest.seed
        _LOG.warning(
            "%s@%s under %s was synthesised by another version or other settings: building it again",
            card.name,
            variant,
            data_root,
        )
    from aimbench.data.build import build

    build(
        f"{card.name}@{variant}",
        raw=None,
        data_root=data_root,
        seed=seed,
        cards_dir=cards_dir,
    )


def _how_to_build(card: Card, variant: str, data_root: Path) -> str:
    archives = "; ".join(missing_sources(card, card.variant(variant).sources))
    mini = next((name for name, entry in card.variants.items() if entry.mini), None)
    hint = f"; {card.name}@{mini} needs no download" if mini else ""
    return (
        f"dataset {card.name}@{variant} is not built under {data_root}: put {archives} into a folder DIR and "
        f"run 'aimbench data build {card.name}@{variant} --raw DIR'; 'aimbench data fetch' downloads what still has an "
        f"address{hint}"
    )


def _checked_manifest(folder: Path, name: str, variant: str) -> Manifest:
    """Checks what is cheap to check: names, file sizes, the index's hash. `verify` re-hashes everything."""
    mend = f"rebuild with 'aimbench data build {name}@{variant} --data {folder.parent.parent} --force'"
    manifest = read_manifest(folder)
    if (manifest.name, manifest.variant) != (name, variant):
        raise DataError(f"{folder} holds {manifest.name}@{manifest.variant}, not {name}@{variant}; move it or {mend}")
    for shard in manifest.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise DataError(f"shard {path} is missing; {mend}")
        if size != shard.bytes:
            raise DataError(
                f"shard {path} changed after its manifest was written ({size} bytes, not {shard.bytes}); {mend}"
            )
    index = folder / manifest.index.file
    if not index.is_file() or sha256_of(index) != manifest.index.sha256:
        raise DataError(f"index {index} is missing or changed after its manifest was written; {mend}")
    return manifest
