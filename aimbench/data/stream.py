"""Batches of images, streamed: shards are read from front to back, for training sets too large to seek in.

Every sample comes exactly once an epoch. A fixed number of readers, dealt out
to the workers that there are, read shuffled shards of their own through shuffle
buffers of their own, and take turns with a batch each. So order and
augmentation follow from the seed alone, for any number of workers. Where
samples are weighted or left out, use ``loader.ImageSource``.
"""

import json
import random
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from aimbench.data.batch import Batch
from aimbench.data.dataset import Item, SplitIndex
from aimbench.data.decode import decode
from aimbench.data.shards import MEMBERS
from aimbench.data.transforms import Transform, TransformConfig
from aimbench.errors import DataError

SUFFIXES = {"image": ("jpg", "jpeg", "png"), "json": ("json",), "mask": ("mask.png",)}
"""What a sample's members may be called after its key."""

READERS = 12
"""Of a split, however few its shards and its workers. A number of workers that divides it keeps them in turn."""

Entry = tuple[int, Item]  # position in the split, encoded sample


@dataclass
class _Chunk:
    """Samples that one reader put together."""

    index: Tensor
    image: Tensor
    region: Tensor | None

    def __len__(self) -> int:
        return len(self.index)


class StreamSource:
    """Yields the batches of a training split, epoch after epoch, in the order of its shards.

    Args:
        split: the split.
        transform: how images are prepared.
        batch_size: samples a batch; the last one of an epoch may be smaller.
        mask_threshold: a mask pixel's value / 255 at or above it is foreground, in (0, 1).
        fields: which of ``group`` and ``mask`` the batches hold.
        workers: processes that read and decode, at most; the readers are dealt to 1, 2, 3, 4, 6 or 12 of them. 0 works
            in this process.
        shuffle_buffer: encoded samples that each reader holds to draw from. Shards are shuffled when they are built.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        split: SplitIndex,
        transform: TransformConfig,
        batch_size: int,
        *,
        mask_threshold: float,
        fields: frozenset[str] = frozenset(),
        workers: int = 0,
        shuffle_buffer: int = 250,
        pin_memory: bool = False,
    ) -> None:
        self.split = split
        self.transform = Transform(transform)
        self.batch_size = batch_size
        self.mask_threshold = mask_threshold
        self.fields = fields
        self.workers = workers
        self.shuffle_buffer = shuffle_buffer
        self.pin_memory = pin_memory
        self._label = torch.from_numpy(np.asarray(split.label))
        self._group = torch.from_numpy(np.asarray(split.group))

    def __len__(self) -> int:
        return len(self.split)

    def epoch(self, seed: int, *, drop_last: bool = False) -> Iterator[Batch]:
        """Batches of one epoch; ``seed`` (of this epoch) decides order and augmentation.

        Raises:
            DataError: a shard or sample is missing, truncated or corrupt. Nothing is skipped.
        """
        loader = DataLoader(
            _EpochStream(self, seed),
            batch_size=None,  # workers hand over whole chunks
            num_workers=_dividing(self.workers),
            pin_memory=self.pin_memory,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # leaves the global one, which is training's, where it is
        )
        for chunk in _rebatched(_sound(loader), self.batch_size, drop_last=drop_last):
            yield Batch(
                chunk.index,
                self._label[chunk.index],
                image=chunk.image,
                group=self._group[chunk.index] if "group" in self.fields else None,
                mask=chunk.region if "mask" in self.fields else None,
                keys=[self.split.keys[i] for i in chunk.index.tolist()],
            )


class _EpochStream(IterableDataset["_Chunk | DataError | None"]):
    """What one worker contributes to one epoch: the chunks of its readers in turn, None for one that has no more."""

    def __init__(self, source: StreamSource, seed: int) -> None:
        self.source = source
        self.seed = seed
        self.shards = np.random.default_rng(seed).permutation(len(source.split.shard_paths))

    def __iter__(self) -> Iterator["_Chunk | DataError | None"]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        readers = [self._chunks(reader) for reader in range(number, READERS, workers)]
        # Errors travel as values: a worker process would bury their one line under its traceback.
        try:
            for _ in range(self._turns()):
                for chunks in readers:
                    yield next(chunks, None)
        except DataError as error:
            yield error

    def _turns(self) -> int:
        """Chunks of the reader that has most: as long as it reads, every other keeps its turn."""
        sizes = np.bincount(self.source.split.shard, minlength=len(self.shards))
        most = max(int(sizes[self.shards[reader::READERS]].sum()) for reader in range(READERS))
        return -(-most // self.source.batch_size)

    def _chunks(self, reader: int) -> Iterator[_Chunk]:
        size, transform = self.source.batch_size, self.source.transform
        chunk: list[tuple[int, Tensor, Tensor | None]] = []
        for position, item in self._shuffled(reader):
            chunk.append((position, *self._prepare(position, item)))
            if len(chunk) == size:
                yield _collate(chunk, transform)
                chunk = []
        if chunk:
            yield _collate(chunk, transform)

    def _shuffled(self, reader: int) -> Iterator[Entry]:
        mine = self.shards[reader::READERS]  # none, where there are more readers than shards
        entries = (entry for shard in mine for entry in read_shard(self.source.split, int(shard)))
        buffer = max(1, self.source.shuffle_buffer)
        shuffle = webdataset.shuffle(buffer, initial=buffer, rng=random.Random(f"{self.seed} {reader}"))
        shuffled: Iterator[Entry] = shuffle(entries)
        return shuffled

    def _prepare(self, position: int, item: Item) -> tuple[Tensor, Tensor | None]:
        with_region = "mask" in self.source.fields
        photograph = decode(item, mask_threshold=self.source.mask_threshold, with_mask=with_region)
        seed = int(np.random.default_rng([self.seed, position]).integers(2**62))
        return self.source.transform.framed(photograph, seed, with_region=with_region)


def read_shard(split: SplitIndex, shard: int) -> Iterator[Entry]:
    """Reads a shard from front to back and compares it with the index.

    Args:
        split: the index.
        shard: number of the shard in ``split.shard_paths``.

    Yields:
        Position in the split and encoded sample, in the order of the shard.

    Raises:
        DataError: the shard cannot be read to its end, or does not hold exactly the samples of the index.
    """
    positions = np.flatnonzero(split.shard == shard)
    positions = positions[np.argsort(split.offsets[positions, 0])]
    where = f"shard {split.shard_paths[shard]}"
    try:
        with tarfile.open(split.shard_paths[shard], "r|") as tar:
            members = _members(tar)
            for position in positions.tolist():
                where = f"shard {split.shard_paths[shard]}, sample {split.keys[position]}"
                yield position, _item(split, position, members)
            name, _ = next(members, (None, b""))
            if name is not None:
                raise ValueError(f"{name} follows it, which is not in the index")
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{where}: {reason}; rebuild with '{split.rebuild}'") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for info in tar:
        content = tar.extractfile(info)
        yield info.name, content.read() if content is not None else b""
        tar.members = []  # type: ignore[attr-defined]  # a stream need not remember what it has passed


def _item(split: SplitIndex, position: int, members: Iterator[tuple[str, bytes]]) -> Item:
    """Takes the members of one sample, in the order of the index."""
    contents: list[bytes | None] = []
    for column, member in enumerate(MEMBERS):
        if split.offsets[position, column] < 0:
            contents.append(None)
            continue
        name, data = next(members, (None, b""))
        if name is None:
            raise EOFError(f"the shard ends before its {member}")
        if name not in [f"{split.keys[position]}.{suffix}" for suffix in SUFFIXES[member]]:
            raise ValueError(f"{name} stands in the place of its {member}")
        if zlib.crc32(data) != int(split.checksums[position, column]):
            raise ValueError(f"{member} is corrupt (its checksum differs from the index)")
        contents.append(data)
    image, meta, mask = contents
    assert image is not None
    assert meta is not None
    boxes = [(b[0], b[1], b[2], b[3]) for b in json.loads(meta)["boxes"]]
    return Item(split.keys[position], image, mask, boxes)


def _dividing(workers: int) -> int:
    """The most workers, of those asked for, that have equally many readers each; 0 stays 0."""
    return max((count for count in range(1, workers + 1) if READERS % count == 0), default=0)


def _sound(loader: "DataLoader[_Chunk | DataError | None]") -> Iterator[_Chunk]:
    for chunk in loader:
        if isinstance(chunk, DataError):
            break  # out of the loop first: this ends the workers, whatever becomes of the error's frames
        if chunk is not None:
            yield chunk
    else:
        return
    raise chunk


def _rebatched(chunks: Iterator[_Chunk], size: int, *, drop_last: bool) -> Iterator[_Chunk]:
    """Whole chunks as they come; each reader's last, smaller one is joined with those of the others."""
    rest: list[_Chunk] = []
    for chunk in chunks:
        if len(chunk) == size:
            yield chunk
            continue
        rest.append(chunk)
        if sum(len(part) for part in rest) >= size:
            joined = _joined(rest)
            yield _part(joined, 0, size)
            rest = [_part(joined, size, len(joined))] if len(joined) > size else []
    if rest and not drop_last:
        yield _joined(rest)


def _collate(samples: list[tuple[int, Tensor, Tensor | None]], transform: Transform) -> _Chunk:
    regions = [region for _, _, region in samples if region is not None]
    return _Chunk(
        index=torch.tensor([position for position, _, _ in samples]),
        image=transform.normalized([image for _, image, _ in samples]),
        region=torch.stack(regions) if regions else None,
    )


def _joined(chunks: list[_Chunk]) -> _Chunk:
    regions = [chunk.region for chunk in chunks if chunk.region is not None]
    return _Chunk(
        index=torch.cat([chunk.index for chunk in chunks]),
        image=torch.cat([chunk.image for chunk in chunks]),
        region=torch.cat(regions) if regions else None,
    )


def _part(chunk: _Chunk, start: int, end: int) -> _Chunk:
    region = None if chunk.region is None else chunk.region[start:end]
    return _Chunk(chunk.index[start:end], chunk.image[start:end], region)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
