"""From a recipe to a sample: decode, compose, encode, check.

A recipe is plain data, so that a pool of processes can render them.
"""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from aimbench.data.annotations import read_voc_boxes
from aimbench.data.tables import Cell, read_cell
from aimbench.errors import DataError

JPEG_QUALITY = 95
BLACK = "black"
"""Background of a composite that has no place."""

Box = tuple[float, float, float, float]
Pixels = npt.NDArray[np.uint8]

_KEPT = {"JPEG": ("jpg", "jpeg"), "MPO": ("jpg", "jpeg"), "PNG": ("png",)}
"""Formats whose bytes go into a shard as they are, with the suffixes they may keep."""

_EXIF_ORIENTATION = 0x0112

_REACH = 2.0
"""Pixels by which a box may reach out of its image before that is counted as odd."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one sample.

    Attributes:
        split: Split or test condition.
        key: Name of the sample, unique in its split, without dots and slashes.
        label: Class index.
        group: Group index.
        place: Place index, -1 where there is none.
        source: Path of the image under the raw folder, kept in the sample.
        image: File or table cell to read.
        mask: Image whose value / 255 is the share of object, or None.
        boxes: Object boxes (x0, y0, x1, y1) in pixels of the image.
        background: None keeps the image's bytes; a file or ``BLACK`` is pasted behind the object.
        mask_threshold: Foreground where the mask's value / 255 is at least this.
        mask_scaled: Whether a mask of another size, but the same aspect, is resized to the image.
        voc: VOC XML file with the boxes, in place of ``boxes``; scaled from the size that it states.
        voc_class: Only the boxes of this object name count, e.g. a WordNet id; empty: all.
        loose_boxes: Whether boxes may have swapped corners or lie outside the image, as some of ImageNet's do: what has
            no place in the image is dropped and counted in the manifest. Elsewhere it is an error.
    """

    split: str
    key: str
    label: int
    group: int
    place: int
    source: str
    image: Path | Cell
    mask: Path | Cell | None
    boxes: tuple[Box, ...]
    background: Path | str | None
    mask_threshold: float
    mask_scaled: bool = False
    voc: Path | None = None
    voc_class: str = ""
    loose_boxes: bool = False


@dataclass(frozen=True)
class Sample:
    """A rendered recipe: the members of its sample in the shard, and what is known of its ground truth.

    Attributes:
        recipe: What it was made after.
        suffix: Of the image's file name.
        image: Bytes of the image.
        meta: Bytes of the JSON.
        mask: Bytes of the mask's PNG, or None.
        foreground_share: Share of the image that the mask covers, or None.
        num_boxes: Number of boxes.
        box_share: Share of the image that the boxes cover together, or None.
        traits: What is odd about the file, e.g. ``CMYK``; counted in the manifest.
    """

    recipe: Recipe
    suffix: str
    image: bytes
    meta: bytes
    mask: bytes | None
    foreground_share: float | None
    num_boxes: int
    box_share: float | None
    traits: tuple[str, ...]


def render(recipe: Recipe) -> Sample:
    """Makes the sample of a recipe.

    Raises:
        DataError: If an image is missing, empty, truncated or not an image, the mask's size differs, or a
            box lies outside the image.
    """
    where = f"{recipe.split} sample {recipe.key}"
    original = _read(recipe.image, where)
    opened = _decode(original, f"{where}: image {recipe.image}")
    pixels = _rgb(opened)
    opacity = _read_opacity(recipe, pixels, where)
    if recipe.background is None:
        suffix, image = _stored(recipe.image, original, opened, pixels)
    else:
        if opacity is None:
            raise DataError(f"{where}: no mask to cut the object out with; unpack the segmentations again")
        background = _background(recipe.background, pixels.shape[:2], where)
        suffix, image = "jpg", encode_jpeg(compose(pixels, opacity, background))
    height, width = pixels.shape[:2]
    boxes, oddities = _boxes(recipe, width, height, where)
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
        num_boxes=len(boxes),
        box_share=_covered(boxes, width, height) if boxes else None,
        traits=(*_traits(opened), *oddities),
    )


def decode_rgb(data: bytes, what: str) -> Pixels:
    """Decodes a whole image to (H, W, 3) uint8; 16-bit grey is reduced to 8 bits, transparency is dropped.

    An EXIF orientation is not applied: pixels, masks and boxes are those of the file as stored.

    Raises:
        DataError: Naming ``what``, if the bytes are truncated or not an image.
    """
    return _rgb(_decode(data, what))


def decode_mask(data: bytes, what: str) -> Pixels:
    """Decodes a grey image to (H, W) uint8; 16 bits are reduced to 8.

    Raises:
        DataError: Naming ``what``, if the bytes are truncated or not an image.
    """
    return np.asarray(_to_8_bit(_decode(data, what)).convert("L"))


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


def _read(image: Path | Cell, where: str) -> bytes:
    if isinstance(image, Cell):
        return read_cell(image, where)
    try:
        data = image.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{where}: {image} is missing; unpack its archive again") from None
    except OSError as error:
        raise DataError(f"{where}: {image} can't be read ({error.strerror}); mend or remove it") from None
    if not data:
        raise DataError(f"{where}: {image} is empty (0 bytes); unpack its archive again or remove the file")
    return data


def _decode(data: bytes, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{what} is corrupt or truncated ({error}); get it again from its archive") from None
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise DataError(f"{what} has 32 bits a pixel; convert it to 8 or 16 bits")
    return image


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(_to_8_bit(image).convert("RGB"))


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow opens 16-bit grey as I;16 (or I), and its own conversion clips all above 255.
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))


def _stored(source: Path | Cell, original: bytes, image: Image.Image, pixels: Pixels) -> tuple[str, bytes]:
    """Suffix and bytes as they go into the shard: the original's where every reader decodes it alike."""
    kept = _KEPT.get(image.format or "", ())
    if not kept or image.mode.startswith("I"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return "png", buffer.getvalue()
    suffix = source.suffix.lower().lstrip(".") if isinstance(source, Path) else kept[0]
    # A few of ImageNet's .JPEG files are PNGs; readers go by the content.
    return (suffix if suffix in ("jpg", "jpeg", "png") else kept[0]), original


def _traits(image: Image.Image) -> tuple[str, ...]:
    traits = []
    if image.mode in ("L", "CMYK", "P", "LA", "RGBA") or image.mode.startswith("I"):
        traits.append("16-bit grey" if image.mode.startswith("I") else {"L": "grey"}.get(image.mode, image.mode))
    if _orientation(image) != 1:
        traits.append("EXIF-rotated")
    return tuple(traits)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        return 1  # a malformed EXIF block says nothing of the pixels


def _read_opacity(recipe: Recipe, pixels: Pixels, where: str) -> npt.NDArray[np.float64] | None:
    if recipe.mask is None:
        return None
    mask = decode_mask(_read(recipe.mask, where), f"{where}: mask {recipe.mask}")
    height, width = pixels.shape[:2]
    if recipe.mask_scaled and mask.shape != (height, width) and _same_aspect(mask.shape, (height, width)):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR))
    if mask.shape != (height, width):
        raise DataError(
            f"{where}: mask {recipe.mask} is {mask.shape[1]}x{mask.shape[0]}, "
            f"its image {width}x{height}; take both from the same release"
        )
    return mask / 255.0


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...], tolerance: float = 0.02) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= tolerance


def _background(background: Path | str, size: tuple[int, ...], where: str) -> Pixels:
    height, width = size
    if background == BLACK:
        return np.zeros((height, width, 3), dtype=np.uint8)
    path = Path(background)
    scene = _decode(_read(path, where), f"{where}: place image {path}")
    return cover(scene.convert("RGB"), width, height)


def _boxes(recipe: Recipe, width: int, height: int, where: str) -> tuple[list[Box], tuple[str, ...]]:
    """The boxes of a recipe inside the image, and what is odd about them."""
    found = recipe.boxes
    if recipe.voc is not None:
        stated = read_voc_boxes(recipe.voc, recipe.voc_class)
        if not _same_aspect((stated.height, stated.width), (height, width)):
            return [], ("boxes of an image of another shape",)
        x_scale, y_scale = width / stated.width, height / stated.height
        found = stated.boxes
        if (x_scale, y_scale) != (1, 1):
            found = tuple(
                (round(x0 * x_scale, 2), round(y0 * y_scale, 2), round(x1 * x_scale, 2), round(y1 * y_scale, 2))
                for x0, y0, x1, y1 in found
            )
    if not all(math.isfinite(side) for box in found for side in box):
        raise DataError(f"{where}: a box among {found} has a side that is no number; mend the annotation")
    if not recipe.loose_boxes:
        return [_clip(box, width, height, where) for box in found], ()
    kept, oddities = [], dict[str, None]()
    for x0, y0, x1, y1 in found:
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        inside = _inside(box, width, height)
        if _is_empty(inside):
            oddities["box outside the image"] = None
            continue
        if max(abs(a - b) for a, b in zip(box, inside, strict=True)) > _REACH:
            oddities["box reaching out of the image"] = None
        kept.append(inside)
    return kept, tuple(oddities)


def _inside(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _is_empty(box: Box) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]


def _covered(boxes: list[Box], width: int, height: int) -> float:
    inside = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside[round(y0) : round(y1), round(x0) : round(x1)] = True
    return float(inside.mean())


def _clip(box: Box, width: int, height: int, where: str) -> Box:
    clipped = _inside(box, width, height)
    if _is_empty(clipped):
        raise DataError(
            f"{where}: box {box} lies outside its {width}x{height} image; check the annotation, or take boxes "
            "and images of the same release"
        )
    return clipped
