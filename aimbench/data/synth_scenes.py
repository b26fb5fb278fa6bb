"""Draws made-up scenes: each place has colours and a structure of its own, with variation."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from aimbench.data import synth_settings as settings

Field = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A made-up place.

    Attributes:
        name: As in ``categories_places365.txt``, e.g. ``/o/ocean``.
        structure: Name of a structure in this module.
        dark: Hue of the dark parts, in turns.
        light: Hue of the light parts, in turns.
        frequency: Repetitions of the structure across the image.
    """

    name: str
    structure: str
    dark: float
    light: float
    frequency: float


CATEGORIES = (
    Place("/b/bamboo_forest", "trunks", 0.30, 0.22, 14),
    Place("/f/forest/broadleaf", "trunks", 0.09, 0.32, 7),
    Place("/o/ocean", "waves", 0.60, 0.53, 9),
    Place("/l/lake/natural", "horizon", 0.56, 0.61, 4),
)
"""The four categories of Places that Waterbirds uses."""

PLACES = (
    Place("/b/bamboo_forest", "trunks", 0.30, 0.22, 14),
    Place("/o/ocean", "waves", 0.60, 0.53, 9),
    Place("/d/desert/sand", "dunes", 0.07, 0.12, 4),
    Place("/c/courtyard", "tiles", 0.98, 0.08, 6),
    Place("/g/greenhouse", "lattice", 0.38, 0.16, 6),
    Place("/s/sky", "clouds", 0.62, 0.60, 3),
    Place("/f/field/cultivated", "rows", 0.17, 0.27, 10),
    Place("/h/harbour", "blocks", 0.72, 0.55, 6),
    Place("/i/ice_floe", "cracks", 0.50, 0.52, 6),
    Place("/v/vineyard", "rows", 0.78, 0.33, 6),
    Place("/b/brick_wall", "bricks", 0.02, 0.03, 8),
    Place("/p/pebble_beach", "pebbles", 0.86, 0.10, 12),
)
"""Place classes of the synthesised validation set."""


def place_of(label: int) -> Place:
    """Returns a made-up place for any label: those of ``PLACES`` first, then their structures in other hues."""
    if label < len(PLACES):
        return PLACES[label]
    own = PLACES[(5 * label) % len(PLACES)]
    hue = (0.13 + 0.618034 * label) % 1.0
    return Place(f"/m/made_up_{label}", own.structure, hue, hue + 0.08, 4 + label % 9)


def draw_scene(place: Place, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Image.Image:
    """Draws one scene of a place, RGB, of the given (width, height) or of that in the settings."""
    width, height = size or settings.SCENE_SIZE
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / width, y / height
    warp = smooth_noise(width, height, 4, rng)
    frequency = place.frequency * float(rng.uniform(0.85, 1.2))
    own = rng.random() < settings.SCENE_CONSISTENCY
    structure = place.structure if own else PLACES[int(rng.integers(len(PLACES)))].structure
    pattern = _structure(structure, x, y, frequency, float(rng.random()), warp)
    jitter = float(rng.normal(0, settings.SCENE_HUE_JITTER))
    dark = _colour(place.dark + jitter, float(rng.uniform(0.25, 0.4)))
    light = _colour(place.light + jitter, float(rng.uniform(0.7, 0.9)))
    pixels = dark + (light - dark) * pattern[:, :, None]
    pixels *= 0.9 + 0.2 * smooth_noise(width, height, 3, rng)[:, :, None]
    return to_image(pixels + rng.normal(0, settings.SCENE_NOISE, (height, width, 1)))


def draw_backdrop(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draws a neutral texture, the background of a plain photograph: it tells nothing of the species."""
    base = _colour(float(rng.random()), float(rng.uniform(0.4, 0.75)), saturation=0.15)
    pixels = base * (0.7 + 0.6 * smooth_noise(width, height, 5, rng)[:, :, None])
    return to_image(pixels + rng.normal(0, settings.SCENE_NOISE, (height, width, 1)))


def smooth_noise(width: int, height: int, cells: int, rng: np.random.Generator) -> Field:
    """Returns (height, width) noise in [0, 1] that varies over about ``cells`` cells."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255.0


def to_image(pixels: Field) -> Image.Image:
    """Turns (H, W, 3) grey levels into an RGB image."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _structure(name: str, x: Field, y: Field, frequency: float, phase: float, warp: Field) -> Field:
    """Returns a field in [0, 1]."""
    turn = 2 * np.pi

    def wave(position: Field) -> Field:
        return 0.5 + 0.5 * np.sin(turn * (position + phase))

    across, down = frequency * x, frequency * y
    column, row = np.floor(across + phase), np.floor(down + phase)
    fields: dict[str, Callable[[], Field]] = {
        "trunks": lambda: (wave(across + 0.5 * warp) > 0.45) * (0.6 + 0.4 * warp),
        "waves": lambda: wave(down + 0.8 * warp + 0.3 * np.sin(turn * 2 * x)),
        "horizon": lambda: np.where(y < 0.35 + 0.1 * phase, 1.0 - 0.5 * y, 0.35 + 0.3 * wave(3 * down + 0.3 * warp)),
        "dunes": lambda: wave(down + 0.6 * np.sin(turn * (x + phase)) + 0.5 * warp) * 0.5 + 0.5 * (1 - y),
        "tiles": lambda: (column + row) % 2,
        "lattice": lambda: np.minimum(wave(across), wave(down)) ** 0.5,
        "clouds": lambda: np.clip(2.2 * warp - 0.5, 0, 1),
        "rows": lambda: wave(frequency * (x - 0.5) / (0.25 + y)) * (0.5 + 0.5 * y),
        "blocks": lambda: (np.sin(12.9898 * column + 78.233 * row) * 43758.5453) % 1.0,
        "cracks": lambda: np.clip(6 * np.abs(wave(across + down + 2.5 * warp) - 0.5), 0, 1),
        "bricks": lambda: np.minimum(
            (down + phase) % 1 > 0.15, ((across / 2 + 0.5 * (row % 2) + phase) % 1) > 0.08
        ).astype(np.float64),
        "pebbles": lambda: np.clip(wave(across + warp) * wave(down - warp) * 1.6, 0, 1),
    }
    return fields[name]()


def _colour(hue: float, value: float, saturation: float | None = None) -> Field:
    strength = settings.SCENE_SATURATION if saturation is None else saturation
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, strength, value)) * 255
