"""Random crops and flips taken of a whole batch at once, on whatever device it lies."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Crops:
    """Crops that a batch of images is still to be reduced to.

    Attributes:
        boxes: ``(N, 4)`` float32: left, top, width and height as shares of the image's sides.
        flip: ``(N,)`` bool: mirrored afterwards.
        side: of the square result, in pixels.
    """

    boxes: Tensor
    flip: Tensor
    side: int

    def to(self, device: torch.device) -> "Crops":
        """The same crops on ``device``."""
        return Crops(self.boxes.to(device, non_blocking=True), self.flip.to(device, non_blocking=True), self.side)

    def take(self, images: Tensor, mode: str = "bilinear") -> Tensor:
        """The crops of ``(N, C, H, W)`` images, each resized to ``(N, C, side, side)``.

        Args:
            images: on the device of the boxes.
            mode: of ``grid_sample``: ``bilinear`` for images, ``nearest`` for masks. Neither smooths what it
                shrinks, so images should be little larger than ``side``.
        """
        if len(images) == 0:
            return images.new_empty((0, images.shape[1], self.side, self.side))
        left, top, width, height = self.boxes.unbind(dim=1)
        zero = torch.zeros_like(left)
        # From output coordinates in [-1, 1] to those of the image.
        across = torch.stack([torch.where(self.flip, -width, width), zero, 2 * left + width - 1], dim=1)
        down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
        shape = [len(images), images.shape[1], self.side, self.side]
        grid = F.affine_grid(torch.stack([across, down], dim=1), shape, align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), mode, padding_mode="border", align_corners=False)
