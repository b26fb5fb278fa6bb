"""Samples as the network will see them, before normalisation; made once where nothing is random about them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aimbench.errors import DataError


@dataclass
class Sample:
    """One sample of a split.

    Attributes:
        index: position in the split.
        image: ``(3, S, S)`` uint8.
        region: ``(1, S, S)`` in {0, 1}, or None.
        size: height and width of the photograph, in pixels.
        crop: what the device is to take of the image, see ``Transform.crop``; None for all of it.
    """

    index: int
    image: Tensor
    region: Tensor | None
    size: tuple[int, int]
    crop: tuple[Tensor, bool] | None = None


class FramedCache:
    """A split decoded, resized and cropped, in memory that forked loader workers share.

    Build with ``FramedCache.build``; index with a position in the split.
    """

    def __init__(self, images: Tensor, regions: Tensor | None, sizes: Tensor) -> None:
        self._images = images  # (N, S, S, 3) uint8
        self._regions = regions  # (N, 1, S, S) uint8
        self._sizes = sizes  # (N, 2)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._images.numel() + (0 if self._regions is None else self._regions.numel())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> Sample:
        region = None if self._regions is None else self._regions[position].float()
        height, width = self._sizes[position].tolist()
        return Sample(position, self._images[position].permute(2, 0, 1), region, (height, width))

    @classmethod
    def build(
        cls,
        dataset: Dataset[Sample | DataError],
        size: int,
        side: int,
        *,
        limit_bytes: int,
        with_region: bool,
        workers: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> "FramedCache | None":
        """Makes every sample once.

        Args:
            dataset: gives the ``Sample`` of (position, seed of its augmentation).
            size: samples.
            side: of their images, in pixels.
            limit_bytes: that the cache may hold.
            with_region: samples come with their region.
            workers: processes that decode.
            on_progress: told of each sample.

        Returns:
            The cache, or None if it would hold more than ``limit_bytes``.

        Raises:
            DataError: a sample cannot be decoded.
        """
        if size * (4 if with_region else 3) * side**2 > limit_bytes:
            return None
        images = torch.empty((size, side, side, 3), dtype=torch.uint8)
        regions = torch.empty((size, 1, side, side), dtype=torch.uint8) if with_region else None
        sizes = torch.empty((size, 2), dtype=torch.int64)
        loader: DataLoader[Sample | DataError] = DataLoader(
            dataset,
            sampler=[(position, 0) for position in range(size)],
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # leaves the global one, which is training's, where it is
        )
        for sample in loader:
            if isinstance(sample, DataError):
                raise DataError(str(sample))  # a new one, see ImageSource.epoch
            images[sample.index] = sample.image.permute(1, 2, 0)
            sizes[sample.index] = torch.tensor(sample.size)
            if regions is not None and sample.region is not None:
                regions[sample.index] = sample.region
            if on_progress is not None:
                on_progress(1)
        return cls(images, regions, sizes)


def _as_it_is(sample: "Sample | DataError") -> "Sample | DataError":
    return sample
