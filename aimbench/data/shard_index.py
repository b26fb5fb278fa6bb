"""Joins the rows of all finished shards to the index, a shard at a time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aimbench.data.manifest import GroundTruthSummary, ShardInfo
from aimbench.data.same_images import SameImages
from aimbench.data.shards import Fingerprint, image_digest, index_schema, read_part

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Joined:
    """What all shards together hold.

    Attributes:
        fingerprint: sha256 over all samples.
        shards: What each shard is, in the order of their names.
        same_images: Which photographs are there more than once.
    """

    fingerprint: str = ""
    shards: list[ShardInfo] = field(default_factory=list)
    same_images: SameImages = field(default_factory=SameImages)
    _samples: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    _traits: Counter[str] = field(default_factory=Counter)
    _masks: int = 0
    _foreground: float = 0.0
    _empty: int = 0
    _boxed: int = 0
    _box_area: float = 0.0

    @property
    def counts(self) -> Iterator[tuple[str, int, int, int]]:
        """Yields (split, label, group, number of samples)."""
        for (split, label, group), number in self._samples.items():
            yield split, label, group, number

    @property
    def ground_truth(self) -> GroundTruthSummary:
        """Statistics of masks and boxes."""
        total = self._samples.total()
        return GroundTruthSummary(
            share_with_mask=self._masks / total,
            mean_foreground_share=round(self._foreground / self._masks, 6) if self._masks else 0.0,
            empty_masks=self._empty,
            share_with_boxes=self._boxed / total,
            mean_box_share=round(self._box_area / self._boxed, 6) if self._boxed else None,
        )

    @property
    def masks(self) -> int:
        """Number of samples that have a mask."""
        return self._masks

    @property
    def traits(self) -> dict[str, int]:
        """Number of images whose files are odd, by trait."""
        return dict(sorted(self._traits.items()))

    def add(self, table: "pa.Table") -> None:
        """Counts the rows of one shard."""
        split, label, group, key, digest = (
            table[name].to_pylist() for name in ("split", "label", "group", "key", "digest")
        )
        self._samples.update(zip(split, label, group, strict=True))
        self.same_images.add(map(image_digest, digest), split, label, key)
        self._traits.update(trait for traits in table["traits"].to_pylist() for trait in traits.split(",") if trait)
        masks = [share for share in table["foreground_share"].to_pylist() if share is not None]
        boxes = [share for share in table["box_share"].to_pylist() if share is not None]
        self._masks += len(masks)
        self._foreground += sum(masks)
        self._empty += masks.count(0)
        self._boxed += len(boxes)
        self._box_area += sum(boxes)


def join_parts(parts: Path, index: Path) -> Joined:
    """Writes the index, one row group a shard, and returns what the shards hold.

    Args:
        parts: Folder of the rows of each finished shard.
        index: Parquet file to write.
    """
    import pyarrow.parquet as pq

    joined, fingerprint, schema = Joined(), Fingerprint(), index_schema()
    with pq.ParquetWriter(index, schema) as writer:
        for path in sorted(parts.glob("*.parquet")):
            table, info = read_part(path)
            joined.shards.append(info)
            joined.add(table)
            fingerprint.add(table["digest"].to_pylist())
            writer.write_table(table.select(schema.names).replace_schema_metadata(None))
    joined.fingerprint = fingerprint.hexdigest()
    return joined
