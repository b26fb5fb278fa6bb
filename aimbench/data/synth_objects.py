"""Draws made-up dogs and things: an outline, colours and a pattern for each class, with variation."""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from aimbench.data import synth_settings as settings

Colour = tuple[int, int, int]
_CANVAS = 256
_GOLDEN = 0.618034
"""Steps of the golden ratio spread the hues of any number of classes evenly."""


def draw_dog(label: int, length: int, rng: np.random.Generator) -> Image.Image:
    """Draws a dog of a made-up breed: coat, ears, legs, tail and markings follow from the label.

    Args:
        label: Breed.
        length: Width of the result before the tilt, in pixels.
        rng: Source of the variation.

    Returns:
        RGBA image cropped to the dog; alpha is its outline.
    """
    coat = _colour(0.02 + 0.012 * label + float(rng.normal(0, 0.01)), 0.25 + 0.06 * (label % 6), 0.45 + 0.05 * label)
    marking = _colour(0.08, 0.15, 0.95 if label % 2 else 0.2)
    bird = Image.new("RGBA", (_CANVAS, _CANVAS), (*coat, 0))
    pen = ImageDraw.Draw(bird)
    legs, height = 26 + 9 * (label % 5), 34 + 5 * (label % 4)
    top, bottom = 150 - height, 150 + height // 2
    for x in (74, 92, 158, 176):
        swing = int(rng.integers(-6, 7))
        pen.line([(x, bottom - 8), (x + swing, bottom + legs)], fill=coat, width=13)
    pen.arc((22, top - 30 - 6 * (label % 3), 76, top + 34), 60, 200, fill=coat, width=11)
    pen.ellipse((54, top, 194, bottom), fill=coat)
    pen.ellipse((168, top - 40, 222, top + 16), fill=coat)
    pen.rounded_rectangle((204, top - 20, 230 + 3 * (label % 4), top + 4), 8, fill=coat)
    if label % 3 == 0:
        pen.polygon([(176, top - 34), (184, top - 66), (200, top - 36)], fill=coat)
    else:
        pen.ellipse((166, top - 38, 186, top + 6 + 8 * (label % 3)), fill=marking)
    pen.ellipse((204, top - 24, 212, top - 16), fill=(15, 15, 15))
    pen.ellipse((228, top - 18, 238, top - 8), fill=(15, 15, 15))
    _mark(bird, (label // 2) % 4, marking, 16 + 2 * (label % 5))
    return _finish(bird, length, rng)


def draw_thing(label: int, length: int, rng: np.random.Generator) -> Image.Image:
    """Draws a made-up object whose outline, hues and pattern follow from the label.

    Args:
        label: Class.
        length: Width of the result before the tilt, in pixels.
        rng: Source of the variation.

    Returns:
        RGBA image cropped to the object; alpha is its outline.
    """
    own = np.random.default_rng([label, 77])  # the class, not the sample
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = np.ones_like(angles)
    for wave in (2, 3, 4, 5, 7):
        radius += own.uniform(0, 0.9 / wave) * np.cos(wave * angles + own.uniform(0, 2 * np.pi))
    radius *= 105 / radius.max()
    stretch = own.uniform(0.6, 1.0)
    outline = [(128 + r * np.cos(a), 128 + stretch * r * np.sin(a)) for r, a in zip(radius, angles, strict=True)]
    hue = label * _GOLDEN + float(rng.normal(0, settings.TREE_HUE_JITTER))
    thing = Image.new("RGBA", (_CANVAS, _CANVAS), (*_colour(hue, 0.6, 0.7), 0))
    ImageDraw.Draw(thing).polygon(outline, fill=_colour(hue, 0.6, float(rng.uniform(0.55, 0.85))))
    _mark(thing, label % 5, _colour(hue + 0.35, 0.5, 0.9), 14 + 3 * (label % 4))
    return _finish(thing, length, rng)


DRAW: dict[str, Callable[[int, int, np.random.Generator], Image.Image]] = {"dog": draw_dog, "thing": draw_thing}
"""What a card may name as the object of a mini."""


def _mark(image: Image.Image, kind: int, colour: Colour, step: int) -> None:
    """Paints stripes, spots, a half, rings or nothing within the object's outline."""
    marks = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(marks)
    if kind == 1:
        for x in range(0, 2 * _CANVAS, step * 2):
            pen.line([(x, 0), (x - 120, _CANVAS)], fill=255, width=step // 2)
    elif kind == 2:
        for x in range(0, _CANVAS, step * 2):
            for y in range(0, _CANVAS, step * 2):
                pen.ellipse((x, y, x + step, y + step), fill=255)
    elif kind == 3:
        pen.rectangle((0, 0, 118, _CANVAS), fill=255)
    elif kind == 4:
        for r in range(step, _CANVAS, step * 2):
            pen.ellipse((128 - r, 128 - r, 128 + r, 128 + r), outline=255, width=step // 2)
    image.paste((*colour, 255), mask=ImageChops.multiply(marks, image.getchannel("A")))


def _finish(image: Image.Image, length: int, rng: np.random.Generator) -> Image.Image:
    """Adds noise, flips, tilts and scales."""
    pixels = np.asarray(image).astype(np.float32)
    # Coarse noise, so that it survives the reduction in size.
    noise = np.kron(rng.normal(0, settings.TREE_NOISE, (_CANVAS // 4, _CANVAS // 4)), np.ones((4, 4)))
    pixels[:, :, :3] += noise[:, :, None]
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR)
    image = image.crop(image.getchannel("A").getbbox())
    return image.resize((length, max(1, round(length * image.height / image.width))), Image.Resampling.LANCZOS)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(max(value, 0.0), 1.0))
    return (round(red * 255), round(green * 255), round(blue * 255))
