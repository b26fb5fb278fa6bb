"""A contact sheet: samples of each group with the mask outlined and boxes drawn."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from aimbench.data.dataset import Item, ShardDataset, SplitIndex
from aimbench.data.samples import decode_mask, decode_rgb
from aimbench.errors import ConfigError

CELL = 180
"""Side of a picture, in pixels."""

_CAPTION, _MARGIN = 30, 6
_MASK_COLOUR, _BOX_COLOUR = (255, 40, 200), (255, 220, 0)


def contact_sheet(
    dataset: ShardDataset, split: str = "train", *, rows: int = 10, columns: int = 6, seed: int = 0
) -> Image.Image:
    """Draws random samples of a split, one row for each group that has samples.

    Args:
        dataset: An open dataset.
        split: Split to show.
        rows: Most groups shown.
        columns: Samples of a group.
        seed: Of the choice of samples.

    Returns:
        RGB image; masks are outlined, boxes drawn, each picture has key, label, group and place beneath.

    Raises:
        ConfigError: If rows or columns are below 1.
    """
    if rows < 1 or columns < 1:
        raise ConfigError(f"a contact sheet of {rows} rows and {columns} columns is empty; give at least 1 of each")
    index = dataset.split(split)
    groups = [int(group) for group in np.unique(index.group)][:rows]
    rng = np.random.default_rng(seed)
    manifest = dataset.manifest
    title = f"{dataset.name}@{dataset.variant} ({manifest.kind}), {split}, {manifest.fingerprint[:12]}"
    cell_width, cell_height = CELL + _MARGIN, CELL + _CAPTION + _MARGIN
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, len(groups) * cell_height + 28), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 6), title, fill="black", font=ImageFont.load_default(13))
    for row, group in enumerate(groups):
        members = np.flatnonzero(index.group == group)
        chosen = rng.permutation(members)[:columns]
        for column, i in enumerate(chosen):
            left, top = _MARGIN + column * cell_width, 28 + row * cell_height
            sheet.paste(draw_item(index.read(int(i))), (left, top))
            for line, text in enumerate(_caption(dataset, index, int(i))):
                pen.text((left, top + CELL + 1 + 13 * line), text, fill="black", font=ImageFont.load_default(10))
    return sheet


def captioned_sheet(items: Sequence[tuple[Item, str]], title: str, *, columns: int = 6) -> Image.Image:
    """Draws given samples, each with a caption of up to two lines beneath.

    Args:
        items: Samples and captions, in reading order; at least one.
        title: Above the pictures.
        columns: Pictures in a row.
    """
    columns = min(columns, len(items))
    cell_width, cell_height = CELL + _MARGIN, CELL + _CAPTION + _MARGIN
    height = -(-len(items) // columns) * cell_height + 28
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 6), title, fill="black", font=ImageFont.load_default(13))
    for number, (item, caption) in enumerate(items):
        left, top = _MARGIN + number % columns * cell_width, 28 + number // columns * cell_height
        sheet.paste(draw_item(item), (left, top))
        pen.text((left, top + CELL + 1), caption, fill="black", font=ImageFont.load_default(10), spacing=1)
    return sheet


def draw_item(item: Item) -> Image.Image:
    """Draws one sample into a square cell, mask outlined and boxes drawn."""
    picture = Image.fromarray(decode_rgb(item.image, f"image of {item.key}"))
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    if item.mask is not None:
        mask = Image.fromarray(decode_mask(item.mask, f"mask of {item.key}")).resize(size, Image.Resampling.NEAREST)
        edge = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) != np.asarray(mask)
        pixels = np.array(picture)
        pixels[edge] = _MASK_COLOUR
        picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    for box in item.boxes:
        pen.rectangle([round(value * scale) for value in box], outline=_BOX_COLOUR)
    cell = Image.new("RGB", (CELL, CELL), (235, 235, 235))
    cell.paste(picture, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def to_png(sheet: Image.Image) -> bytes:
    """Encodes a contact sheet as PNG."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _caption(dataset: ShardDataset, index: SplitIndex, i: int) -> tuple[str, str]:
    manifest = dataset.manifest
    label, group, place = (int(column[i]) for column in (index.label, index.group, index.place))
    named_group = manifest.groups[group] if manifest.groups != manifest.classes else manifest.classes[label]
    where = manifest.places[place] if 0 <= place < len(manifest.places) else "no place"
    return f"y {label} g {group} {named_group}"[:34], where[:34]
