"""Decode once: the pixels of a split that fits into memory, shared by all workers."""

from collections.abc import Callable

import numpy as np
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
        chunks: list[np.ndarray] = []
        shapes, boxes, total = [], [], 0
        for photograph in loader:
            if isinstance(photograph, DataError):
                raise DataError(str(photograph))  # a new one, see ImageSource.epoch
            image = photograph.image.permute(1, 2, 0)  # as decode leaves it in memory
            pixels = [image] if photograph.mask is None else [image, photograph.mask]
            chunk = torch.cat([p.reshape(-1) for p in pixels]).numpy().copy()
            total += chunk.size
            if total > limit_bytes:
                return None
            chunks.append(chunk)
            shapes.append([*photograph.image.shape[-2:], int(photograph.mask is not None)])
            boxes.append(photograph.boxes.clone())
            if on_progress is not None:
                on_progress(1)
        sizes = torch.tensor([0] + [c.size for c in chunks], dtype=torch.int64)
        buffer = torch.from_numpy(np.concatenate(chunks)) if chunks else torch.empty(0, dtype=torch.uint8)
        return cls(buffer, sizes.cumsum(0)[:-1], torch.tensor(shapes).reshape(-1, 3), boxes)


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
