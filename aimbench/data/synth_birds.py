"""Draws made-up birds: a shape, a colour and a pattern for each species, with variation."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from aimbench.data import synth_settings as settings

Colour = tuple[int, int, int]
_CANVAS = 256


@dataclass(frozen=True)
class Species:
    """A made-up species.

    Attributes:
        name: As a species folder without its number.
        hue: Plumage, in turns.
        wing_hue: Wing, in turns.
        pattern: ``plain``, ``stripes``, ``spots``, ``belly`` or ``collar``.
        water: Long neck and beak, as waders have.
        tail: Length of the tail relative to the body.
    """

    name: str
    hue: float
    wing_hue: float
    pattern: str
    water: bool
    tail: float


# Hues are spread so that neighbours in colour differ in pattern.
SPECIES = (
    Species("Bramble_Warbler", 0.00, 0.08, "stripes", False, 0.6),
    Species("Sooted_Albatross", 0.58, 0.66, "belly", True, 0.4),
    Species("Thicket_Wren", 0.09, 0.02, "spots", False, 0.9),
    Species("Harbour_Gull", 0.66, 0.52, "plain", True, 0.5),
    Species("Orchard_Finch", 0.17, 0.30, "plain", False, 0.5),
    Species("Reed_Grebe", 0.42, 0.50, "stripes", True, 0.3),
    Species("Meadow_Lark", 0.27, 0.15, "collar", False, 0.8),
    Species("Skerry_Cormorant", 0.76, 0.85, "spots", True, 0.7),
    Species("Hedge_Sparrow", 0.92, 0.00, "belly", False, 0.7),
    Species("Estuary_Pelican", 0.50, 0.40, "collar", True, 0.4),
)


def draw_bird(species: Species, length: int, rng: np.random.Generator) -> Image.Image:
    """Draws one bird.

    Args:
        species: What it looks like.
        length: Width of the canvas before the tilt, in pixels.
        rng: Source of the variation: hue, brightness, noise, tilt, direction.

    Returns:
        RGBA image cropped to the bird; alpha is the bird's outline.
    """
    bird = _draw_parts(species, rng)
    bird = _to_width(bird.crop(bird.getchannel("A").getbbox()), 2 * length)
    bird = _add_noise(bird, rng)
    if rng.random() < 0.5:
        bird = bird.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tilt = float(rng.uniform(-settings.BIRD_ROTATION, settings.BIRD_ROTATION))
    bird = bird.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    return _to_width(bird.crop(bird.getchannel("A").getbbox()), length)


def _to_width(image: Image.Image, width: int) -> Image.Image:
    height = max(1, round(width * image.height / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _draw_parts(species: Species, rng: np.random.Generator) -> Image.Image:
    brightness = float(np.clip(rng.normal(0.62, settings.BRIGHTNESS_JITTER), 0.3, 0.9))
    jitter = float(rng.normal(0, settings.HUE_JITTER))
    plumage = _colour(species.hue + jitter, brightness)
    pattern = _colour(species.hue + jitter, brightness + settings.PATTERN_CONTRAST * (1 if brightness < 0.5 else -1))
    wing = _colour(species.wing_hue + jitter, brightness * 0.75)

    bird = Image.new("RGBA", (_CANVAS, _CANVAS), (*plumage, 0))
    pen = ImageDraw.Draw(bird)
    body = (70, 100, 180, 168) if not species.water else (60, 118, 186, 172)
    middle = (body[1] + body[3]) // 2
    tail = 30 + 35 * species.tail
    pen.polygon([(body[0] + 22, middle - 12), (body[0] + 22, middle + 14), (body[0] - tail, middle + 4)], fill=wing)
    for x in (115, 132):
        pen.line([(x, body[3] - 6), (x + 4, body[3] + 24)], fill=(90, 70, 50), width=5)
    head = (152, 72, 204, 122) if not species.water else (176, 54, 218, 94)
    if species.water:
        pen.line([(168, 136), (192, 80)], fill=plumage, width=26)
    pen.ellipse(head, fill=plumage)
    beak = 22 if not species.water else 46
    eye_level = (head[1] + head[3]) // 2
    pen.polygon(
        [(head[2] - 5, eye_level - 8), (head[2] - 5, eye_level + 9), (head[2] + beak, eye_level + 4)],
        fill=(214, 150, 48),
    )
    _draw_body(bird, body, plumage, pattern, species.pattern)
    pen.ellipse((head[2] - 22, eye_level - 8, head[2] - 12, eye_level + 2), fill=(15, 15, 15))
    lift = int(rng.integers(-6, 7))
    pen.pieslice((body[0] + 8, body[1] + 6 + lift, body[2] - 34, body[3] - 14 + lift), 20, 200, fill=wing)
    return bird


def _draw_body(bird: Image.Image, body: tuple[int, int, int, int], plumage: Colour, pattern: Colour, kind: str) -> None:
    """Paints body and pattern; the pattern ends at the body's outline."""
    outline = Image.new("L", bird.size, 0)
    ImageDraw.Draw(outline).ellipse(body, fill=255)
    bird.paste((*plumage, 255), mask=outline)
    marks = Image.new("L", bird.size, 0)
    pen = ImageDraw.Draw(marks)
    left, top, right, bottom = body
    if kind == "stripes":
        for x in range(left, right, 20):
            pen.line([(x, bottom), (x + 18, top)], fill=255, width=8)
    elif kind == "spots":
        for x in range(left + 8, right, 20):
            for y in range(top + 8, bottom, 18):
                pen.ellipse((x, y, x + 9, y + 9), fill=255)
    elif kind == "belly":
        pen.ellipse((left + 16, (top + bottom) // 2 + 6, right - 6, bottom + 22), fill=255)
    elif kind == "collar":
        pen.rectangle((right - 42, top, right - 22, bottom), fill=255)
    bird.paste((*pattern, 255), mask=ImageChops.multiply(marks, outline))


def _add_noise(bird: Image.Image, rng: np.random.Generator) -> Image.Image:
    # Coarse noise, so that it survives the reduction in size.
    size = (bird.width // 4 + 1, bird.height // 4 + 1)
    noise = np.kron(rng.normal(0, settings.BIRD_NOISE, size[::-1]), np.ones((4, 4)))
    pixels = np.asarray(bird).astype(np.float32)
    pixels[:, :, :3] += noise[: bird.height, : bird.width, None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _colour(hue: float, value: float) -> Colour:
    saturation = settings.BIRD_CONTRAST
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, min(max(value, 0.0), 1.0))
    return (round(red * 255), round(green * 255), round(blue * 255))
