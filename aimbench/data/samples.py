"""From a recipe to a sample: decode, compose, encode, check.

A recipe is plain data, so that a pool of processes can render them.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from aimbench.errors import DataError

JPEG_QUALITY = 95
BLACK = "black"
"""Background of a composite that has no place."""

Box = tuple[float, float, float, float]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """How to make one sample.

    Attributes:
        split: Split or test condition.
        key: Name of the sample, unique in its split, without dots and slashes.
        label: Class index.
        group: Group index.
        place: Place index, -1 where there is none.
        source: Path of the image under the raw folder, kept in the sample.
        image: File to read.
        mask: Grey PNG whose value / 255 is the share of object, or None.
        boxes: Object boxes (x0, y0, x1, y1) in pixels of the image.
        background: None keeps the image's bytes; a file or ``BLACK`` is pasted behind the object.
        mask_threshold: Foreground where the mask's value / 255 is at least this.
    """

    split: str
    key: str
    label: int
    group: int
    place: int
    source: str
    image: Path
    mask: Path | None
    boxes: tuple[Box, ...]
    background: Path | str | None
    mask_threshold: float


@dataclass(frozen=True)
class Sample:
    """A rendered recipe: the members of its sample in the shard, and the mask's statistics."""

    recipe: Recipe
    suffix: str
    image: bytes
    meta: bytes
    mask: bytes | None
    foreground_share: float | None


def render(recipe: Recipe) -> Sample:
    """Makes the sample of a recipe.

    Raises:
        DataError: If an image is missing, truncated or not an image, or the mask's size differs.
    """
    where = f"{recipe.split} sample {recipe.key}"
    original = _read(recipe.image, where)
    pixels = decode_rgb(original, f"{where}: image {recipe.image}")
    opacity = _read_opacity(recipe, pixels, where)
    if recipe.background is None:
        suffix, image = recipe.image.suffix.lower().lstrip("."), original
    else:
        if opacity is None:
            raise DataError(f"{where}: no mask to cut the object out with; unpack the segmentations again")
        background = _background(recipe.background, pixels.shape[:2], where)
        suffix, image = "jpg", encode_jpeg(compose(pixels, opacity, background))
    height, width = pixels.shape[:2]
    boxes = [_clip(box, width, height, where) for box in recipe.boxes]
    foreground = None if opacity is None else opacity >= recipe.mask_threshold
    meta = {
        "label": recipe.label,
        "group": recipe.group,
        "place": recipe.place,
        "boxes": boxes,
        "source": recipe.source,
        "width": width,
        "height": height,
    }
    return Sample(
        recipe=recipe,
        suffix=suffix,
        image=image,
        meta=json.dumps(meta, sort_keys=True, separators=(",", ":")).encode(),
        mask=None if foreground is None else encode_mask(foreground),
        foreground_share=None if foreground is None else float(foreground.mean()),
    )


def decode_rgb(data: bytes, what: str) -> Pixels:
    """Decodes a whole image to (H, W, 3) uint8.

    Raises:
        DataError: Naming ``what``, if the bytes are truncated or not an image.
    """
    return np.asarray(_decode(data, what).convert("RGB"))


def decode_mask(data: bytes, what: str) -> Pixels:
    """Decodes a grey image to (H, W) uint8.

    Raises:
        DataError: Naming ``what``, if the bytes are truncated or not an image.
    """
    return np.asarray(_decode(data, what).convert("L"))


def compose(image: Pixels, opacity: npt.NDArray[np.float64], background: Pixels) -> Pixels:
    """Pastes the object over a background: ``opacity * image + (1 - opacity) * background``.

    Args:
        image: (H, W, 3).
        opacity: (H, W) in [0, 1].
        background: (H, W, 3).
    """
    share = opacity[:, :, None]
    return np.rint(image * share + background * (1 - share)).astype(np.uint8)


def cover(scene: Image.Image, width: int, height: int) -> Pixels:
    """Centre-crops a scene to the aspect of (width, height) and resizes it to that size."""
    return np.asarray(ImageOps.fit(scene, (width, height), Image.Resampling.LANCZOS))


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encodes (H, W, 3) as JPEG of the quality used for all composites."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_mask(foreground: npt.NDArray[np.bool_]) -> bytes:
    """Encodes (H, W) booleans as a grey PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(foreground.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing; unpack its archive again") from None


def _decode(data: bytes, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{what} is corrupt or truncated ({error}); get it again from its archive") from None
    return image


def _read_opacity(recipe: Recipe, pixels: Pixels, where: str) -> npt.NDArray[np.float64] | None:
    if recipe.mask is None:
        return None
    mask = decode_mask(_read(recipe.mask, where), f"{where}: mask {recipe.mask}")
    if mask.shape != pixels.shape[:2]:
        raise DataError(
            f"{where}: mask {recipe.mask} is {mask.shape[1]}x{mask.shape[0]}, "
            f"its image {pixels.shape[1]}x{pixels.shape[0]}; take both from the same release"
        )
    return mask / 255.0


def _background(background: Path | str, size: tuple[int, ...], where: str) -> Pixels:
    height, width = size
    if background == BLACK:
        return np.zeros((height, width, 3), dtype=np.uint8)
    path = Path(background)
    scene = _decode(_read(path, where), f"{where}: place image {path}")
    return cover(scene.convert("RGB"), width, height)


def _clip(box: Box, width: int, height: int, where: str) -> Box:
    x0, y0, x1, y1 = box
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise DataError(f"{where}: box {box} lies outside its {width}x{height} image; check bounding_boxes.txt")
    return clipped
