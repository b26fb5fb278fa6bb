"""Synthesises raw folders in the official layouts, so that a mini goes through the same builders.

Everything follows from the seed. How hard the result is, is set in
``synth_settings.py``.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from aimbench.data import synth_settings as settings
from aimbench.data.synth_birds import SPECIES, draw_bird
from aimbench.data.synth_scenes import CATEGORIES, PLACES, draw_backdrop, draw_scene
from aimbench.errors import CardError

_BIRDS, _SCENES, _LARGE = 1, 2, 3  # parts of the seed, so that no two streams are the same


def synthesise(folder: Path, sources: list[str], seed: int) -> None:
    """Writes the named sources into ``folder`` as they would lie there unpacked.

    Args:
        folder: Raw folder to make.
        sources: Names as on the cards: cub, segmentations, places_val, places_lists, places_train.
        seed: Of all variation.

    Raises:
        CardError: If a source can't be synthesised.
    """
    unknown = set(sources) - {"cub", "segmentations", "places_val", "places_lists", "places_train"}
    if unknown:
        raise CardError(f"a mini can't be made of source '{sorted(unknown)[0]}'; mend the card's variant")
    folder.mkdir(parents=True, exist_ok=True)
    if "cub" in sources:
        _write_cub(folder / "CUB_200_2011", folder / "segmentations", seed)
    if "places_val" in sources:
        _write_places_val(folder / "places365", seed)
    if "places_train" in sources:
        _write_places_large(folder / "places365" / "data_large", seed)


def _write_cub(folder: Path, masks: Path, seed: int) -> None:
    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")
    }
    number = 0
    for label, species in enumerate(SPECIES, start=1):
        species_folder = f"{label:03d}.{species.name}"
        tables["classes"].append(f"{label} {species_folder}")
        (folder / "images" / species_folder).mkdir(parents=True)
        (masks / species_folder).mkdir(parents=True)
        for i in range(settings.TRAIN_PER_SPECIES + settings.TEST_PER_SPECIES):
            number += 1
            file = f"{species_folder}/{species.name}_{i + 1:04d}_{number}"
            rng = np.random.default_rng([seed, _BIRDS, label, i])
            photograph, mask = _photograph(label - 1, rng)
            photograph.save(folder / "images" / f"{file}.jpg", quality=92)
            mask.save(masks / f"{file}.png")
            tables["images"].append(f"{number} {file}.jpg")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["train_test_split"].append(f"{number} {int(i < settings.TRAIN_PER_SPECIES)}")
            tables["bounding_boxes"].append(f"{number} {_box(mask)}")
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _photograph(label: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Returns a photograph of a bird before a neutral texture, and the bird's outline as a grey mask."""
    width, height = (round(side * rng.uniform(0.9, 1.0)) for side in settings.IMAGE_SIZE)
    length = round(width * rng.uniform(*settings.BIRD_SCALE))
    bird = draw_bird(SPECIES[label], length, rng)
    left = int(rng.integers(0, width - bird.width + 1))
    top = int(rng.integers(0, max(1, height - bird.height + 1)))
    photograph = draw_backdrop(width, height, rng)
    photograph.paste(bird, (left, top), mask=bird.getchannel("A"))
    mask = Image.new("L", (width, height), 0)
    mask.paste(bird.getchannel("A"), (left, top))
    return photograph, mask


def _box(mask: Image.Image) -> str:
    """The mask's box as CUB writes it: x y width height."""
    rows, columns = np.nonzero(np.asarray(mask) >= 128)
    left, top = columns.min(), rows.min()
    return f"{left:.1f} {top:.1f} {columns.max() + 1 - left:.1f} {rows.max() + 1 - top:.1f}"


def _write_places_val(folder: Path, seed: int) -> None:
    (folder / "val_large").mkdir(parents=True)
    places = PLACES[: settings.PLACES]
    lines = []
    for i in range(settings.SCENES_PER_PLACE * len(places)):
        place = i % len(places)
        file = f"Places365_val_{i + 1:08d}.jpg"
        scene = draw_scene(places[place], np.random.default_rng([seed, _SCENES, i]))
        scene.save(folder / "val_large" / file, quality=92)
        lines.append(f"{file} {place}")
    (folder / "places365_val.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [f"{place.name} {i}" for i, place in enumerate(places)]
    (folder / "categories_places365.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _write_places_large(folder: Path, seed: int) -> None:
    for number, category in enumerate(CATEGORIES):
        category_folder = folder / category.name.lstrip("/")
        category_folder.mkdir(parents=True)
        for i in range(settings.SCENES_PER_CATEGORY):
            scene = draw_scene(category, np.random.default_rng([seed, _LARGE, number, i]))
            scene.save(category_folder / f"{i + 1:08d}.jpg", quality=92)
