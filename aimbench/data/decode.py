"""From a sample's bytes to pixels. A corrupt sample is an error that names it, never a skip."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import decode_jpeg

from aimbench.data.dataset import Item
from aimbench.data.transforms import Photograph
from aimbench.errors import DataError

JPEG = b"\xff\xd8\xff"
"""What a JPEG begins with."""


def decode(item: Item, *, mask_threshold: float, with_mask: bool = True) -> Photograph:
    """Decodes an item.

    Args:
        item: encoded sample.
        mask_threshold: a mask pixel's value / 255 at or above it is foreground, in (0, 1).
        with_mask: whether to decode the mask.

    Raises:
        DataError: the image or mask cannot be decoded, or their sizes differ.
    """
    image = _jpeg(item.image) if item.image.startswith(JPEG) else None
    if image is None:
        image = _pixels(item.image, item.key, "image", "RGB")
    mask = None
    if with_mask and item.mask is not None:
        mask = (_pixels(item.mask, item.key, "mask", "L") >= 255 * mask_threshold).to(torch.uint8)
        if mask.shape[-2:] != image.shape[-2:]:
            raise DataError(
                f"sample {item.key}: mask is {mask.shape[-1]}x{mask.shape[-2]}, image"
                f" {image.shape[-1]}x{image.shape[-2]}; rebuild the dataset with 'aimbench data build'"
            )
    boxes = torch.tensor(item.boxes, dtype=torch.float32).reshape(-1, 4)
    return Photograph(image, mask, boxes)


def _jpeg(data: bytes) -> Tensor | None:
    """A JPEG of three colours, to the bit as Pillow decodes it and with half its copies; None for any other."""
    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None  # Pillow says what is wrong with it
    return pixels if pixels.shape[0] == 3 else None


def _pixels(data: bytes, key: str, what: str, mode: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert(mode))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"sample {key}: its {what} cannot be decoded ({error}); check the dataset with 'aimbench data verify'"
        ) from error
    # Colours stay last in memory, as the decoder wrote them: nothing is copied, and resizing is quicker so.
    tensor = torch.from_numpy(pixels)
    return tensor[None] if mode == "L" else tensor.permute(2, 0, 1)
