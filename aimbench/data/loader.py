"""Batches of images, indexed: any order, any subset, any number of workers.

The order of an epoch and the augmentation of each sample follow from (seed,
epoch, sample) alone. So a resumed run sees exactly what an unbroken one would
have seen, whatever the number of workers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aimbench.data.batch import Batch
from aimbench.data.crops import Crops
from aimbench.data.dataset import SplitIndex
from aimbench.data.decode import decode
from aimbench.data.framed import FramedCache, Sample
from aimbench.data.memory import DecodedCache
from aimbench.data.sharing import WHOLE, Share
from aimbench.data.transforms import Transform, TransformConfig
from aimbench.errors import DataError
from aimbench.machine import usable_cores

Request = tuple[int, int]  # position in the split, seed of its augmentation


class ImageDataset(Dataset[Sample | DataError]):
    """One split, decoded and transformed sample by sample. Indexed by (position, seed).

    Args:
        split: the samples.
        transform: of the images.
        mask_threshold: of the ground truth, see ``decode``.
        with_region: samples come with their region.
        with_mask: the region is the mask where there is one; else always the boxes.
        cache: their photographs in memory, where they are augmented.
        crop_later: augmentation is left to the device, see ``Transform``.
    """

    def __init__(
        self,
        split: SplitIndex,
        transform: TransformConfig,
        *,
        mask_threshold: float,
        with_region: bool,
        with_mask: bool = True,
        cache: DecodedCache | None = None,
        crop_later: bool = False,
    ) -> None:
        self.split = split
        self.transform = Transform(transform, crop_later=crop_later)
        self.mask_threshold = mask_threshold
        self.with_region = with_region
        self.with_mask = with_mask
        self.cache = cache
        self.framed: FramedCache | None = None

    def keep(self, *, limit_bytes: int, workers: int, on_progress: Callable[[int], None] | None = None) -> int | None:
        """Makes every sample once and keeps it in memory; only where nothing is random about it.

        Returns:
            Bytes held, or None if they would exceed ``limit_bytes``; nothing is kept then.
        """
        assert not self.transform.is_random
        self.framed = FramedCache.build(
            self,
            len(self.split),
            self.transform.side,
            limit_bytes=limit_bytes,
            with_region=self.with_region,
            workers=workers,
            on_progress=on_progress,
        )
        return None if self.framed is None else self.framed.nbytes

    def __getitem__(self, request: Request) -> Sample | DataError:
        position, seed = request
        # Errors travel as values: a worker process would bury their one line under its traceback.
        try:
            sample = self._sample(position, seed) if self.framed is None else self.framed[position]
        except DataError as error:
            return error
        if self.transform.crop_later:
            sample.crop = self.transform.crop(*sample.size, seed)
        return sample

    def _sample(self, position: int, seed: int) -> Sample:
        if self.cache is not None:
            photograph = self.cache[position]
        else:
            photograph = decode(
                self.split.read(position),
                mask_threshold=self.mask_threshold,
                with_mask=self.with_region and self.with_mask,
            )
        height, width = photograph.image.shape[-2:]
        image, region = self.transform.framed(photograph, seed, with_region=self.with_region)
        return Sample(position, image, region, (height, width))


class ImageSource:
    """Yields the batches of a split, epoch after epoch.

    Args:
        dataset: the split.
        batch_size: samples a batch.
        fields: which of ``group`` and ``mask`` the batches hold.
        workers: processes that decode; 0 decodes in this process.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        *,
        fields: frozenset[str] = frozenset(),
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.fields = fields
        self._label = torch.from_numpy(np.asarray(dataset.split.label))
        self._group = torch.from_numpy(np.asarray(dataset.split.group))
        self._requests = _Requests()
        self._loader: DataLoader[list[Sample]] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=partial(_collate, transform=dataset.transform),
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
            # A loader draws a seed for its workers; from the global generator, it would move that of training.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.dataset.split)

    def epoch(
        self,
        order: npt.NDArray[np.int64],
        seed: int,
        *,
        drop_last: bool = False,
        batch_size: int | None = None,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """``share`` of each batch of the positions in ``order``; ``seed`` (of this epoch) decides the augmentation.

        ``batch_size`` is the source's own unless given.
        """
        self._requests.set(order, seed, drop_last=drop_last, batch_size=batch_size or self.batch_size, share=share)
        for collated in self._loader:
            if isinstance(collated, DataError):
                # A new one: an error that this frame also holds would be a cycle, which is freed in an order that
                # leaves the workers unasked to end, and the loader waiting for them.
                raise DataError(str(collated))
            index, image, region, crops = collated
            yield Batch(
                index,
                self._label[index],
                image=image,
                group=self._group[index] if "group" in self.fields else None,
                mask=region if "mask" in self.fields else None,
                crops=crops,
                keys=[self.dataset.split.keys[i] for i in index.tolist()],
            )


def epoch_order(
    size: int,
    seed: int,
    *,
    weights: npt.NDArray[np.float64] | None = None,
    subset: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Positions of one training epoch.

    Args:
        size: samples in the split.
        seed: of this epoch.
        weights: if given, as many positions as the split (or subset) holds are drawn with replacement
            with these probabilities; else every position comes once, shuffled.
        subset: positions to restrict the epoch to; repeated positions are repeated samples.
    """
    generator = np.random.default_rng(seed)
    positions = np.arange(size) if subset is None else np.asarray(subset)
    if weights is None:
        return generator.permutation(positions)
    chosen = np.asarray(weights, dtype=np.float64)[positions]
    return generator.choice(positions, size=len(positions), replace=True, p=chosen / chosen.sum())


def cpu_split(workers: int | None, *, on_gpu: bool, processes: int = 1) -> tuple[int, int]:
    """Trainer threads and loader workers that together never exceed the cores this process may use.

    PyTorch's threads spin while they wait: one busy process too many slows a training step 5 to 20 times.

    Args:
        workers: asked for, of each trainer; None chooses.
        on_gpu: the network runs there.
        processes: trainers on this machine, which divide the cores among them.

    Returns:
        ``(threads, workers)`` of each trainer.
    """
    cores = usable_cores()
    # A SLURM cluster that binds no processes to cores lets a job see the whole node.
    cores = min(cores, int(os.environ.get("SLURM_CPUS_ON_NODE", cores)))
    cores = max(1, cores // processes)
    if workers is None:
        # Beside a network on a CPU, decoding keeps a worker busy for a few per cent of the time: not worth a core.
        workers = max(0, cores - 1) if on_gpu else 0
    workers = max(0, min(workers, cores - 1))
    return cores - workers, workers


class _Requests:
    """A batch sampler whose epoch is set from outside."""

    def __init__(self) -> None:
        self._batches: list[list[Request]] = []

    def set(
        self,
        order: Sequence[int] | npt.NDArray[np.int64],
        seed: int,
        *,
        drop_last: bool,
        batch_size: int,
        share: Share = WHOLE,
    ) -> None:
        seeds = np.random.default_rng([seed, 1]).integers(0, 2**62, size=len(order))
        requests = list(zip(map(int, order), map(int, seeds), strict=True))
        end = len(requests) - len(requests) % batch_size if drop_last else len(requests)
        batches = [requests[i : i + batch_size] for i in range(0, end, batch_size)]
        self._batches = [batch[share.of_batch(len(batch))] for batch in batches]

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _collate(
    samples: list[Sample | DataError], transform: Transform
) -> tuple[Tensor, Tensor, Tensor | None, Crops | None] | DataError:
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        whole.append(sample)
    index = torch.tensor([s.index for s in whole], dtype=torch.int64)  # also where a process's share is empty
    image = transform.normalized([s.image for s in whole])
    regions = [s.region for s in whole if s.region is not None]
    return index, image, torch.stack(regions) if regions else None, _crops(whole, transform)


def _crops(samples: list[Sample], transform: Transform) -> Crops | None:
    if not transform.crop_later:
        return None
    crops = [s.crop for s in samples if s.crop is not None]
    boxes = torch.stack([box for box, _ in crops]) if crops else torch.empty(0, 4)
    return Crops(boxes, torch.tensor([flip for _, flip in crops], dtype=torch.bool), transform.config.image_size)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
