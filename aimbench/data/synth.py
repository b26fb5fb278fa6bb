"""Synthesises raw folders in the official layouts, so that a mini goes through the same builders.

Everything follows from the seed. How hard the result is, is set in
``synth_settings.py``.
"""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aimbench.cards import Card, Variant
from aimbench.data import synth_settings as settings
from aimbench.data.synth_birds import SPECIES, draw_bird
from aimbench.data.synth_scenes import CATEGORIES, PLACES, Place, draw_backdrop, draw_scene, place_of
from aimbench.data.synth_trees import TreeOptions, write_tree
from aimbench.errors import CardError
from aimbench.wrong_fields import wrong_fields

_Model = TypeVar("_Model", bound=BaseModel)
_BIRDS, _SCENES, _LARGE, _HABITATS = 1, 2, 3, 5  # parts of the seed, so that no two streams are the same


def synthesis_digest(variant: Variant) -> str:
    """Returns a sha256 of all that a mini depends on but its seed: this code, its settings and the card's variant."""
    values = {name: value for name, value in vars(settings).items() if name.isupper()}
    digest = hashlib.sha256(
        json.dumps([values, variant.layout, variant.options, variant.sources, variant.synth]).encode()
    )
    for path in sorted(Path(__file__).parent.glob("synth*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def synthesise(folder: Path, card: Card, variant: Variant, seed: int) -> None:
    """Writes the sources of a mini into ``folder`` as they would lie there unpacked.

    Args:
        folder: Raw folder to make.
        card: Of the dataset.
        variant: Its mini; ``synth`` says what is planted.
        seed: Of all variation.

    Raises:
        CardError: If a source can't be synthesised, or ``synth`` is malformed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "tree" in variant.synth:
        options = _validated(TreeOptions, card, variant)
        places = {name: card.sources[name].folders[0] for name in variant.sources}
        write_tree(folder, options, list(variant.options.get("class_folders") or card.classes), places, seed)
        return
    unknown = set(variant.sources) - {"cub", "segmentations", "places_val", "places_lists", "places_train"}
    if unknown:
        raise CardError(
            f"card of {card.name}: a mini can't be made of source '{sorted(unknown)[0]}'; mend the card's variant"
        )
    habitats = _validated(_Habitats, card, variant)
    if "cub" in variant.sources:
        _write_cub(folder / "CUB_200_2011", folder / "segmentations", habitats, seed)
    if "places_val" in variant.sources:
        _write_places_val(folder / "places365", seed)
    if "places_train" in variant.sources:
        _write_places_large(folder / "places365" / "data_large", seed)


class _Habitats(BaseModel):
    """``synth`` of the bird datasets: share of photographs before the species' own habitat; None for none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    habitat_train: float | None = Field(default=None, ge=0, le=1)
    habitat_test: float | None = Field(default=None, ge=0, le=1)


def _validated(model: type[_Model], card: Card, variant: Variant) -> _Model:
    try:
        return model.model_validate(variant.synth)
    except ValidationError as error:
        raise CardError(f"card of {card.name}: {wrong_fields(error, model, below='synth')}") from None


def _write_cub(folder: Path, masks: Path, habitats: _Habitats, seed: int) -> None:
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
            in_train = i < settings.TRAIN_PER_SPECIES
            photograph, mask = _photograph(label - 1, rng, _habitat(habitats, label - 1, i, in_train, seed))
            photograph.save(folder / "images" / f"{file}.jpg", quality=92)
            mask.save(masks / f"{file}.png")
            tables["images"].append(f"{number} {file}.jpg")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["train_test_split"].append(f"{number} {int(in_train)}")
            tables["bounding_boxes"].append(f"{number} {_box(mask)}")
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _habitat(habitats: _Habitats, label: int, i: int, in_train: bool, seed: int) -> Place | None:
    """The place behind photograph ``i`` of a species, its own or another's; None for a neutral texture."""
    share = habitats.habitat_train if in_train else habitats.habitat_test
    if share is None:
        return None
    rank, count = (
        (i, settings.TRAIN_PER_SPECIES) if in_train else (i - settings.TRAIN_PER_SPECIES, settings.TEST_PER_SPECIES)
    )
    if (rank + 0.5) / count < share:
        return place_of(label)
    other = np.random.default_rng([seed, _HABITATS, label, i]).integers(1, len(SPECIES))
    return place_of(int(label + other) % len(SPECIES))


def _photograph(label: int, rng: np.random.Generator, habitat: Place | None) -> tuple[Image.Image, Image.Image]:
    """Returns a photograph of a bird before its habitat or a neutral texture, and the bird's outline as a mask."""
    width, height = (round(side * rng.uniform(0.9, 1.0)) for side in settings.IMAGE_SIZE)
    length = round(width * rng.uniform(*settings.BIRD_SCALE))
    bird = draw_bird(SPECIES[label], length, rng)
    left = int(rng.integers(0, width - bird.width + 1))
    top = int(rng.integers(0, max(1, height - bird.height + 1)))
    photograph = draw_scene(habitat, rng, (width, height)) if habitat else draw_backdrop(width, height, rng)
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
