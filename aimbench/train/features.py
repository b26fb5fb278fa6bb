"""Frozen backbones are run once: their features are kept on disk and shared by all runs.

The cache is keyed by the dataset's fingerprint, the backbone, its weights and
the transform, so that features are never taken for those of something else.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimbench.data.batch import Batch
from aimbench.data.dataset import SplitIndex
from aimbench.data.loader import ImageSource
from aimbench.data.sharing import WHOLE, Share
from aimbench.data.transforms import TransformConfig
from aimbench.errors import DataError
from aimbench.machine import is_alive
from aimbench.models.backbones import EMBEDDING, STAGES, FeaturePyramid
from aimbench.models.weights import parameters_hash
from aimbench.train.feature_rows import FeatureRows, Rows, RowWriter

REGION = "region"

LAYOUT = 2
"""Of the files: since 2 each row has its sum, and files of another layout are not read."""


class FeatureCache:
    """Features of one dataset under one frozen backbone and transform, as memory-mapped arrays.

    Args:
        root: folder of the data, whose cache all runs share.
        own: of what is computed where that cannot be written.
        fingerprint: of the dataset.
        pyramid: the backbone, with its weights loaded.
        transform: of evaluation.
    """

    def __init__(
        self, root: Path, own: Path, fingerprint: str, pyramid: FeaturePyramid, transform: TransformConfig
    ) -> None:
        key = {
            "fingerprint": fingerprint,
            "backbone": pyramid.name,
            # Of the parameters themselves: a random backbone has no other name.
            "weights": parameters_hash(pyramid.network),
            "transform": transform.as_dict(),
            "layout": LAYOUT,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self._shared = root / "features" / digest
        self.folder = self._shared if _is_writable(self._shared) else own / "features" / digest
        self._key = key

    def missing(self, split: str, entries: tuple[int, ...], *, region: bool) -> list[str]:
        """Names of the arrays of ``split`` that are not on disk yet."""
        names = [_name(entry) for entry in entries] + ([REGION] if region else [])
        return [name for name in names if not self._path(split, name).exists()]

    def fill(
        self,
        split: str,
        names: list[str],
        pyramid: FeaturePyramid,
        source: ImageSource,
        device: torch.device,
        on_progress: Callable[[int], None],
    ) -> None:
        """Computes the named arrays of ``split`` in one pass over ``source`` (which must not augment).

        Raises:
            DataError: If the disk has no room for them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "key.json").write_text(json.dumps(self._key, indent=1))
        self._remove_left()
        order = np.arange(len(source))
        files: dict[str, RowWriter] = {}
        reads_pixels = any(name != REGION for name in names)
        if reads_pixels:
            pyramid.eval()
        with self._whole_or_none(split, names), torch.inference_mode():
            for batch in source.epoch(order, seed=0):
                image = batch.image.to(device).contiguous(memory_format=torch.channels_last)
                features = pyramid(image) if reads_pixels else []
                blocks = {name: _array(name, features, pyramid, batch).cpu().numpy() for name in names}
                if not files:
                    files = self._open(split, blocks, len(source))
                for name, block in blocks.items():
                    files[name].put(batch.index.numpy(), block)
                on_progress(len(batch))
            for file in files.values():
                file.close()

    @contextmanager
    def _whole_or_none(self, split: str, names: list[str]) -> Iterator[None]:
        """Gives what was written its name at the end; removes it if the end is not reached."""
        partials = {name: self._partial(split, name) for name in names}
        try:
            yield
        except BaseException:
            for partial in partials.values():
                partial.unlink(missing_ok=True)
            raise
        for name, partial in partials.items():
            partial.replace(self._path(split, name))

    def _open(self, split: str, blocks: dict[str, Rows], size: int) -> dict[str, RowWriter]:
        """Empty files of ``size`` rows like those of ``blocks``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(size * block.nbytes // len(block) for block in blocks.values())
        free = shutil.disk_usage(self.folder).free
        # A map into a file has no other way to say that the disk is full than to end the process.
        if needed > free:
            raise DataError(
                f"{self.folder} has {free / 1e9:.1f} GB free, the backbone's features of split {split} need "
                f"{needed / 1e9:.1f} GB; make room (other folders in {self.folder.parent} may go, a run computes"
                " what it lacks), or name another folder with --data or --runs"
            )
        return {name: RowWriter(self._partial(split, name), size, block) for name, block in blocks.items()}

    def _remove_left(self) -> None:
        """Removes what processes of this machine began that were killed."""
        for path in self.folder.glob(f"*.{socket.gethostname()}-*.partial"):
            if not is_alive(int(path.stem.rpartition("-")[2])):
                path.unlink(missing_ok=True)

    def embed(self, split: str, pyramid: FeaturePyramid, device: torch.device) -> bool:
        """Computes the embedding of ``split`` from the map on disk that it is made of; False if there is none."""
        source = STAGES if pyramid.is_token_grid else STAGES - 1
        if not self._path(split, _name(source)).exists():
            return False
        pyramid.eval()
        features = [torch.empty(0)] * source
        maps = self.load(split, _name(source))
        name = _name(EMBEDDING)
        with self._whole_or_none(split, [name]), torch.inference_mode():
            blocks = [
                pyramid.embed([*features, maps.take(positions).to(device)]).float().cpu()
                for positions in torch.split(torch.arange(len(maps)), 64)
            ]
            embedding = torch.cat(blocks).numpy()
            file = self._open(split, {name: embedding}, len(embedding))[name]
            file.put(np.arange(len(embedding)), embedding)
            file.close()
        return True

    def load(self, split: str, name: str) -> FeatureRows:
        """The array ``name`` of ``split``.

        Raises:
            DataError: the file is damaged.
        """
        return FeatureRows(self._path(split, name))

    def _path(self, split: str, name: str) -> Path:
        """Where an array is, or where it goes."""
        shared = self._shared / f"{split}.{name}.npy"
        return shared if shared.exists() else self.folder / shared.name

    def _partial(self, split: str, name: str) -> Path:
        """What this process writes before it is whole; others may compute the same at the same time."""
        return self.folder / f"{split}.{name}.{socket.gethostname()}-{os.getpid()}.partial"


def _is_writable(folder: Path) -> bool:
    """Whether files can be put there, once the folders that lack have been made."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    return os.access(there, os.W_OK)


def _name(entry: int) -> str:
    """File name of a pyramid's entry."""
    return "embedding" if entry == EMBEDDING else f"S{entry}"


def _array(name: str, features: list[Tensor], pyramid: FeaturePyramid, batch: Batch) -> Tensor:
    if name == REGION:
        return batch.mask.to(torch.uint8)
    return pyramid.embed(features).float() if name == _name(EMBEDDING) else features[int(name[1:])].float()


class FeatureSource:
    """Batches of cached features; a stand-in for ``ImageSource``."""

    def __init__(
        self,
        cache: FeatureCache,
        split_name: str,
        split: SplitIndex,
        entries: tuple[int, ...],
        batch_size: int,
        *,
        fields: frozenset[str] = frozenset(),
    ) -> None:
        self.batch_size = batch_size
        self.fields = fields
        self._split = split
        self._label = torch.from_numpy(np.asarray(split.label))
        self._group = torch.from_numpy(np.asarray(split.group))
        self._features = {i: cache.load(split_name, _name(i)) for i in entries}
        self._region = cache.load(split_name, REGION) if "mask" in fields else None

    def __len__(self) -> int:
        return len(self._split)

    def epoch(
        self,
        order: npt.NDArray[np.int64],
        seed: int,
        *,
        drop_last: bool = False,
        batch_size: int | None = None,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """``share`` of each batch of ``order``. Nothing is augmented, so ``seed`` changes nothing."""
        size = batch_size or self.batch_size
        end = len(order) - len(order) % size if drop_last else len(order)
        for start in range(0, end, size):
            batch = order[start : start + size]
            index = torch.from_numpy(batch[share.of_batch(len(batch))])
            features = [
                self._features[i].take(index) if i in self._features else torch.empty(0)
                for i in range(max(self._features) + 1)
            ]
            yield Batch(
                index,
                self._label[index],
                features=features,
                group=self._group[index] if "group" in self.fields else None,
                mask=self._region.take(index).float() if self._region is not None else None,
                keys=[self._split.keys[i] for i in index.tolist()],
            )
