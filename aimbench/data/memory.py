"""Decode once: the pixels of a split that fits into memory, shared by all workers."""

import os
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from aimbench.data.dataset import SplitIndex
from aimbench.data.decode import decode
from aimbench.data.transforms import Photograph
from aimbench.errors import DataError


class DecodedCache:
    """Decoded photographs of a split in one flat tensor, which forked loader workers share.

    Build with ``DecodedCache.build``; index with a position in the split.
    """

    def __init__(self, buffer: torch.Tensor, offsets: torch.Tensor, shapes: torch.Tensor, boxes: list[torch.Tensor]):
        self._buffer = buffer
        self._offsets = offsets
        self._shapes = shapes  # height, width, whether a mask follows the image
        self._boxes = boxes

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._buffer.numel()

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, position: int) -> Photograph:
        height, width, has_mask = self._shapes[position].tolist()
        start = int(self._offsets[position])
        area = height * width
        image = self._buffer[start : start + 3 * area].view(height, width, 3).permute(2, 0, 1)
        mask = self._buffer[start + 3 * area : start + 4 * area].view(1, height, width) if has_mask else None
        return Photograph(image, mask, self._boxes[position])

    @classmethod
    def build(
        cls,
        split: SplitIndex,
        *,
        limit_bytes: int,
        mask_threshold: float,
        with_mask: bool,
        workers: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> "DecodedCache | None":
        """Decodes every sample once.

        Returns:
            The cache, or None as soon as the pixels exceed ``limit_bytes``.

        Raises:
            DataError: a sample cannot be decoded.
        """
        loader = DataLoader(
            _Decoder(split, mask_threshold, with_mask),
            batch_size=None,
            num_workers=workers,
            collate_fn=None,
            generator=torch.Generator(),  # leaves the global one, which is training's, where it is
        )
        # Pages that nothing is written to take no memory, so the limit may be asked for at once.
        buffer = torch.empty(min(limit_bytes, _physical_bytes()), dtype=torch.uint8)
        shapes, boxes, starts, filled = [], [], list[int](), 0
        for photograph in loader:
            if isinstance(photograph, DataError):
                raise DataError(str(photograph))  # a new one, see ImageSource.epoch
            image = photograph.image.permute(1, 2, 0)  # as decode leaves it in memory
            pixels = [image] if photograph.mask is None else [image, photograph.mask]
            starts.append(filled)
            for plane in pixels:
                end = filled + plane.numel()
                if end > len(buffer):
                    return None
                buffer[filled:end] = plane.reshape(-1)
                filled = end
            shapes.append([*photograph.image.shape[-2:], int(photograph.mask is not None)])
            boxes.append(photograph.boxes.clone())
            if on_progress is not None:
                on_progress(1)
        return cls(buffer[:filled], torch.tensor(starts), torch.tensor(shapes).reshape(-1, 3), boxes)


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Decoder(torch.utils.data.Dataset["Photograph | DataError"]):
    def __init__(self, split: SplitIndex, mask_threshold: float, with_mask: bool) -> None:
        self.split, self.mask_threshold, self.with_mask = split, mask_threshold, with_mask

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> "Photograph | DataError":
        # Errors travel as values: a worker process would bury their one line under its traceback.
        try:
            return decode(self.split.read(position), mask_threshold=self.mask_threshold, with_mask=self.with_mask)
        except DataError as error:
            return error
