"""Where a run's batches come from: photographs, or features of a frozen backbone computed once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from aimbench.data.batch import Batch
from aimbench.data.dataset import ShardDataset
from aimbench.data.loader import ImageDataset, ImageSource
from aimbench.data.memory import DecodedCache
from aimbench.data.sharing import WHOLE, Share, by_first
from aimbench.data.stream import StreamSource
from aimbench.data.transforms import TransformConfig
from aimbench.models.backbones import FeaturePyramid
from aimbench.train.feature_rows import FeatureRows
from aimbench.train.features import REGION, FeatureCache, FeatureSource
from aimbench.train.progress import Reporter

GroundTruth = Literal["mask", "boxes"]
"""What counts as the object: its mask where it has one, else its boxes; or its boxes always."""


class Source(Protocol):
    """Batches of one split in any order."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(
        self,
        order: npt.NDArray[np.int64],
        seed: int,
        *,
        drop_last: bool = False,
        batch_size: int | None = None,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """``share`` of each batch of the positions in ``order``; ``batch_size`` is the source's own unless given."""
        ...


class RunData:
    """Opens the sources of one run.

    Args:
        dataset: opened shards.
        transform: of training images; evaluation uses it without augmentation.
        pyramid: the backbone.
        entries: pyramid entries that the head reads.
        frozen: features may be computed once and reused.
        fields: batch entries that the method's regime opens.
        stream: training images are read through the shards from front to back.
        crop_later: training images are augmented on the device.
        data_root: holds the feature cache that all runs share.
        own_root: holds what cannot be written there.
        workers: loader processes.
        cache_bytes: memory that decoded photographs may take; 0 decodes anew each epoch.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        transform: TransformConfig,
        pyramid: FeaturePyramid,
        *,
        entries: tuple[int, ...],
        frozen: bool,
        fields: frozenset[str],
        batch_size: int,
        stream: bool,
        data_root: Path,
        own_root: Path,
        workers: int,
        cache_bytes: int,
        device: torch.device,
        reporter: Reporter,
        crop_later: bool = False,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.frozen = frozen
        self._pyramid = pyramid
        self._entries = entries
        self._fields = fields
        self._batch_size = batch_size
        self._stream = stream
        self._crop_later = crop_later
        self._workers = workers
        self._regions: dict[str, FeatureRows] = {}
        self._cache_bytes = cache_bytes
        self._device = device
        self._reporter = reporter
        self._held = 0  # bytes of all images in memory
        self._sources: dict[tuple[str, int], Source] = {}
        self._datasets: dict[str, ImageDataset] = {}
        self._features = FeatureCache(
            data_root, own_root, dataset.manifest.fingerprint, pyramid, transform.without_augmentation()
        )

    def training(self, *, augment: bool, images: bool = False) -> Source | StreamSource:
        """The training split, with what the regime opens; ``images`` even where features are cached."""
        transform = replace(self.transform, augment=augment)
        if self._stream:
            return StreamSource(
                self.dataset.split("train"),
                transform,
                self._batch_size,
                mask_threshold=self.dataset.card.ground_truth.mask_threshold,
                fields=self._fields,
                workers=self._workers,
                pin_memory=self._device.type == "cuda",
            )
        return self._source("train", transform, self._batch_size, images=images)

    def evaluation(self, split: str) -> Source:
        """Any split without augmentation, with what the regime opens."""
        return self._source(split, self.transform.without_augmentation(), 2 * self._batch_size)

    def photographs(
        self, split: str, batch_size: int, *, region: bool, ground_truth: GroundTruth = "mask"
    ) -> ImageSource:
        """Images of any split without augmentation, for attributions and features; ``region`` adds ground truth."""
        fields = frozenset({"mask"}) if region else frozenset[str]()
        images = self._images(split, self.transform.without_augmentation(), fields, with_mask=ground_truth == "mask")
        return self._reading(images, batch_size, fields)

    def maps(self, split: str, stages: tuple[int, ...]) -> Source:
        """Any split without augmentation: these stages of a frozen backbone, not pooled, else images."""
        if not self.frozen:
            return self.photographs(split, self._batch_size, region=False)
        return self._features_of(split, stages, self._batch_size, frozenset())

    def regions(self, split: str) -> FeatureRows:
        """Ground truth of a split, ``(N, 1, H, W)`` in {0, 1}, empty where a sample has none.

        For what a run reports alone: no batch carries it to a method. Kept on disk beside the features.
        """
        if split not in self._regions:
            if self._features.missing(split, (), region=True):
                source = self.photographs(split, 64, region=True)
                with self._reporter.task(f"ground truth of {split}", len(source)) as task:
                    self._features.fill(split, [REGION], self._pyramid, source, self._device, task.advance)
            self._regions[split] = self._features.load(split, REGION)
        return self._regions[split]

    def _source(self, split: str, transform: TransformConfig, batch_size: int, *, images: bool = False) -> Source:
        name = f"{split}{' augmented' if transform.augment else ''}{' images' if images else ''}"
        key = (name, batch_size)
        if key not in self._sources:
            if self.frozen and not images and not transform.augment:
                self._sources[key] = self._features_of(split, self._entries, batch_size, self._fields)
            else:
                if name not in self._datasets:  # of several batch sizes kept in memory once
                    self._datasets[name] = self._images(split, transform, self._fields)
                    if self._cache_bytes and not images:
                        self._keep(self._datasets[name])
                self._sources[key] = self._reading(self._datasets[name], batch_size, self._fields)
        return self._sources[key]

    def _features_of(
        self, split: str, entries: tuple[int, ...], batch_size: int, fields: frozenset[str]
    ) -> FeatureSource:
        by_first(lambda: self._compute_features(split, entries, region="mask" in fields))
        return FeatureSource(self._features, split, self.dataset.split(split), entries, batch_size, fields=fields)

    def _compute_features(self, split: str, entries: tuple[int, ...], *, region: bool) -> None:
        missing = self._features.missing(split, entries, region=region)
        if not missing:
            return
        if missing == ["embedding"] and self._features.embed(split, self._pyramid, self._device):
            return
        source = self.photographs(split, 64, region=region)
        with self._reporter.task(f"features of {split}", len(source)) as task:
            self._features.fill(split, missing, self._pyramid, source, self._device, task.advance)

    def _images(
        self, split: str, transform: TransformConfig, fields: frozenset[str], *, with_mask: bool = True
    ) -> ImageDataset:
        return ImageDataset(
            self.dataset.split(split),
            transform,
            mask_threshold=self.dataset.card.ground_truth.mask_threshold,
            with_region="mask" in fields,
            with_mask=with_mask,
            crop_later=transform.augment and self._crop_later,
        )

    def _reading(self, dataset: ImageDataset, batch_size: int, fields: frozenset[str]) -> ImageSource:
        return ImageSource(
            dataset, batch_size, fields=fields, workers=self._workers, pin_memory=self._device.type == "cuda"
        )

    def _keep(self, dataset: ImageDataset) -> None:
        """Keeps in memory what is the same in every epoch: the photographs where they are augmented, else the input."""
        split, left = dataset.split, self._cache_bytes - self._held
        with self._reporter.task(f"decoding {split.name}", len(split)) as task:
            held: int | None
            if dataset.transform.is_random:
                dataset.cache = DecodedCache.build(
                    split,
                    limit_bytes=left,
                    mask_threshold=dataset.mask_threshold,
                    with_mask=dataset.with_region,
                    workers=self._workers,
                    on_progress=task.advance,
                )
                held = None if dataset.cache is None else dataset.cache.nbytes
            else:
                held = dataset.keep(limit_bytes=left, workers=self._workers, on_progress=task.advance)
        if held is None:
            self._reporter.line(f"{split.name} does not fit into {self._cache_bytes / 1e9:.1f} GB; decoding each epoch")
        else:
            self._held += held
