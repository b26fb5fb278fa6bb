"""Waterbirds (Sagawa et al. 2020): landbirds and waterbirds before land and water.

``group = 2 * y + place``. The release's own images, or composites generated
anew by the same rules with a seed, which is another dataset.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.layouts.cub_tables import Bird, bird_recipe, key_of, read_cub
from aimbench.data.layouts.options import Options, read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder, member
from aimbench.data.recipes import Recipes
from aimbench.data.samples import Box, Recipe
from aimbench.errors import CardError, DataError

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
SPLITS = ("train", "val", "test")
PLACES = ("land", "water")
CATEGORIES: dict[str, tuple[str, ...]] = {
    "land": ("b/bamboo_forest", "f/forest/broadleaf"),
    "water": ("o/ocean", "l/lake/natural"),
}
KEYWORDS = (
    "albatross",
    "auklet",
    "cormorant",
    "frigatebird",
    "fulmar",
    "gull",
    "jaeger",
    "kittiwake",
    "pelican",
    "puffin",
    "tern",
    "gadwall",
    "grebe",
    "mallard",
    "merganser",
    "guillemot",
    "pacific_loon",
)
"""A species is a waterbird if its folder's name contains one of these: the rule of the authors' generator."""

ACCIDENTAL = ("eastern_towhee", "western_meadowlark", "western_wood_pewee")
"""Landbirds that 'tern' catches by accident; the release has them as waterbirds."""

VALIDATION_SHARE = 0.2
SpeciesRule = Literal["official", "corrected"]


class _GeneratedOptions(Options):
    confounder_strength: float = Field(ge=0.5, le=1)
    species_rule: SpeciesRule = "official"
    scenes: dict[str, tuple[str, ...]] = Field(CATEGORIES, min_length=2, max_length=2)
    """Folders of Places365 by place: the landbirds' own place first, then the waterbirds'."""


class _ReleaseOptions(Options):
    release: str
    species_rule: SpeciesRule = "official"


@dataclass(frozen=True)
class _Row:
    """One line of ``metadata.csv``."""

    img_id: int
    img_filename: str
    y: int
    split: int
    place: int
    place_filename: str


def is_waterbird(species: str, rule: SpeciesRule = "official") -> bool:
    """Tells whether a species folder such as ``001.Black_footed_Albatross`` is a waterbird.

    Args:
        species: Name of CUB's folder.
        rule: ``corrected`` leaves out the three landbirds that the official rule catches by accident.
    """
    name = species.lower()
    if rule == "corrected" and _is_accidental(name):
        return False
    return any(keyword in name for keyword in KEYWORDS)


def _is_accidental(species: str) -> bool:
    return any(landbird in species.lower() for landbird in ACCIDENTAL)


def plan_generated(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans composites of CUB birds on Places scenes and writes their ``metadata.csv``.

    Train and val together are CUB's train, of which 20 % are val. In train,
    ``confounder_strength`` of each class stand before their own kind of
    place; in val and test half of each class.
    """
    options = read_options(_GeneratedOptions, card, variant)
    cub = read_cub(raw, card)
    rng = np.random.default_rng(seed)
    splits = _draw_splits(cub.birds, rng)
    labels = [int(is_waterbird(cub.species[bird.label], options.species_rule)) for bird in cub.birds]
    places = _draw_places(labels, splits, options.confounder_strength, rng)
    scenes, notes = _draw_scenes(raw.open(card, "places_train"), options.scenes, places, rng)
    recipes, rows = [], []
    for bird, y, split, place, scene in zip(cub.birds, labels, splits, places, scenes, strict=True):
        rows.append(_Row(bird.number, bird.file, y, split, place, scene[0]))
        recipes.append(
            bird_recipe(bird, card, SPLITS[split], label=y, group=2 * y + place, place=place, background=scene[1])
        )
    return Plan(
        recipes=Recipes(recipes),
        classes=card.classes,
        groups=_group_names(card),
        places=list(options.scenes),
        files={"metadata.csv": _write_metadata(rows)},
        notes=[
            f"regenerated with seed {seed}, confounder strength {options.confounder_strength:g}, "
            f"{options.species_rule} species rule: not the release's images",
            *notes,
        ],
    )


def plan_release(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans the release's own images; masks are joined from CUB's segmentations by file name.

    With ``species_rule: corrected`` the landbirds that the authors' rule
    catches by accident get their right label, before the same places.
    """
    del seed
    options = read_options(_ReleaseOptions, card, variant)
    folder = raw.open(card, options.release)
    masks = raw.open(card, "segmentations")
    boxes = _boxes(raw, card)
    recipes, relabelled = [], 0
    for row in _read_metadata(folder / "metadata.csv"):
        y = 0 if options.species_rule == "corrected" and _is_accidental(row.img_filename) else row.y
        relabelled += y != row.y
        recipes.append(
            Recipe(
                split=SPLITS[row.split],
                key=key_of(row.img_filename),
                label=y,
                group=2 * y + row.place,
                place=row.place,
                source=row.img_filename,
                image=member(folder, row.img_filename),
                mask=_mask(masks, row.img_filename),
                boxes=boxes.get(row.img_filename, ()),
                background=None,
                mask_threshold=card.ground_truth.mask_threshold,
            )
        )
    notes = [f"{relabelled} landbirds relabelled that the release has as waterbirds"] if relabelled else []
    notes += ["official composites; masks joined from CUB's segmentations by file name"]
    if not boxes:
        notes.append("no boxes: CUB_200_2011 is not in the raw folder")
    return Plan(
        recipes=Recipes(recipes),
        classes=card.classes,
        groups=_group_names(card),
        places=list(PLACES),
        files={"metadata.csv": (folder / "metadata.csv").read_bytes()},
        notes=notes,
    )


def _draw_splits(birds: list[Bird], rng: np.random.Generator) -> list[int]:
    """0 train, 1 val, 2 test; val is a share of CUB's train, not stratified, as in the authors' generator."""
    train = [i for i, bird in enumerate(birds) if bird.in_train]
    size = round(VALIDATION_SHARE * len(train))
    validation = {int(i) for i in rng.choice(train, size=size, replace=False)}
    return [1 if i in validation else 0 if bird.in_train else 2 for i, bird in enumerate(birds)]


def _draw_places(labels: list[int], splits: list[int], strength: float, rng: np.random.Generator) -> list[int]:
    """Draws 0 land or 1 water for each bird, with exact shares within each split and class."""
    places = np.zeros(len(labels), dtype=np.int64)
    for split in range(len(SPLITS)):
        for y in (0, 1):
            # Of integers even where there is none: a part of CUB may lack a class.
            members = np.array([i for i in range(len(labels)) if splits[i] == split and labels[i] == y], np.int64)
            own_share = strength if split == 0 else 0.5
            water_share = own_share if y == 1 else 1 - own_share
            # np.round rounds halves to even, which gives the release's 466 landbirds on water in val.
            on_water = int(np.round(water_share * len(members)))
            places[rng.permutation(members)[:on_water]] = 1
    return [int(place) for place in places]


def _draw_scenes(
    folder: Path, categories: Mapping[str, tuple[str, ...]], places: list[int], rng: np.random.Generator
) -> tuple[list[tuple[str, Path]], list[str]]:
    """Draws a scene for each bird without replacement; where they are too few, in rounds."""
    pools, notes = [], []
    for place, name in enumerate(categories):
        files = []
        for category in categories[name]:
            found = sorted(path for path in (folder / category).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
            if not found:
                raise DataError(f"{folder / category} holds no scene; unpack the archive of Places365 again")
            files.extend(found)
        needed = places.count(place)
        if len(files) < needed:
            notes.append(f"{len(files)} {name} scenes for {needed} birds: scenes repeat")
        order: list[int] = []
        while len(order) < needed:
            order.extend(int(i) for i in rng.permutation(len(files)))
        pools.append(iter([files[i] for i in order]))
    scenes = [next(pools[place]) for place in places]
    return [("/" + scene.relative_to(folder).as_posix(), scene) for scene in scenes], notes


def _read_metadata(path: Path) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; unpack the release again") from None
    reader = csv.DictReader(lines)
    lacking = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
    if lacking:
        raise DataError(f"{path} has no column '{lacking[0]}'; get the official release")
    rows = []
    for number, line in enumerate(reader, start=2):
        try:
            row = _Row(
                int(line["img_id"]),
                line["img_filename"],
                int(line["y"]),
                int(line["split"]),
                int(line["place"]),
                line["place_filename"],
            )
        except (TypeError, ValueError):
            raise DataError(f"{path}, line {number}: not a whole row of numbers and names; mend it") from None
        for column, value, limit in (("y", row.y, 2), ("place", row.place, 2), ("split", row.split, 3)):
            if not 0 <= value < limit:
                raise DataError(f"{path}, line {number}: {column} is {value}, not 0 to {limit - 1}; mend it")
        rows.append(row)
    return rows


def _write_metadata(rows: list[_Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return buffer.getvalue().encode()


def _mask(masks: Path, file: str) -> Path:
    path = member(masks, str(Path(file).with_suffix(".png")))
    if not path.is_file():
        raise DataError(f"{masks} has no mask for {file}; unpack segmentations.tgz again")
    return path


def _boxes(raw: RawFolder, card: Card) -> dict[str, tuple[Box, ...]]:
    """CUB's boxes by file name, where CUB is there."""
    if not raw.has(card.source("cub")):
        return {}
    return {bird.file: (bird.box,) for bird in read_cub(raw, card).birds}


def _group_names(card: Card) -> list[str]:
    if not isinstance(card.groups, list) or len(card.groups) != 4 or len(card.classes) != 2:
        raise CardError(f"card of {card.name}: this layout needs two classes and four groups")
    return card.groups
