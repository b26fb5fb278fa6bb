"""Boxes as regions of pixels."""

import torch
from torch import Tensor

from aimbench.errors import DataError


def boxes_to_region(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Union of an image's boxes as a mask.

    Args:
        boxes: (K, 4) corners ``x0, y0, x1, y1`` in pixels, K may be 0.
        size: ``(H, W)`` of the image, in that order.

    Returns:
        (H, W) bool, True where a pixel's centre lies in a box. Boxes are clipped to the image.

    Raises:
        DataError: If the boxes are not (K, 4), or a box ends before it starts.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise DataError(f"boxes: shape {tuple(boxes.shape)}; give (K, 4) as x0, y0, x1, y1")
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    if bool(((x1 < x0) | (y1 < y0)).any()):
        place = int(((x1 < x0) | (y1 < y0)).nonzero()[0])
        raise DataError(f"box {place}: {boxes[place].tolist()} ends before it starts; give x0, y0, x1, y1")
    height, width = size
    y = torch.arange(height, device=boxes.device) + 0.5
    x = torch.arange(width, device=boxes.device) + 0.5
    rows = (y0[:, None] <= y) & (y < y1[:, None])
    columns = (x0[:, None] <= x) & (x < x1[:, None])
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0)
