"""TravelingBirds (Koh et al. 2020): in test, each species stands before another species' training place.

Source: Koh et al., "Concept Bottleneck Models", ICML 2020. The regenerated
composites follow the order of the random draws of the authors' script, so
that the map from species to place is theirs where the raw data are whole.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field

from aimbench.cards import Card, Variant
from aimbench.data.layouts.cub import VALIDATION_SHARE
from aimbench.data.layouts.cub_tables import Bird, Cub, bird_recipe, read_cub, stratified_validation
from aimbench.data.layouts.options import Options, read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder, member
from aimbench.data.recipes import Recipes
from aimbench.data.samples import BLACK, Recipe
from aimbench.errors import DataError

FIXED = "travelingbirds_fixed"
BLACK_SOURCE = "travelingbirds_black"
RANDOM_SOURCE = "travelingbirds_random"


class _GeneratedOptions(Options):
    other_places_in_val: int = Field(0, ge=0)
    """Before so many other species' training places each validation bird stands; 0: before its own species'."""


@dataclass(frozen=True)
class _Places:
    """Place classes and their scenes, in the order of ``places365_val.txt``."""

    names: dict[int, str]
    scenes: dict[int, list[Path]]


def plan_generated(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans composites of CUB birds on Places scenes: not the release's images.

    Raises:
        DataError: If there are fewer place classes than species, or fewer species than validation is to borrow places
            from.
    """
    options = read_options(_GeneratedOptions, card, variant)
    cub = read_cub(raw, card)
    places = _read_places(raw, card)
    if len(places.scenes) < len(cub.species):
        raise DataError(
            f"places365_val.txt has {len(places.scenes)} place classes for {len(cub.species)} species; "
            "each species needs one of its own"
        )
    # The authors' script draws in this order from NumPy's legacy generator: a
    # shuffle of all scenes, one place a species, then scenes species by species.
    rng = np.random.RandomState(seed)
    rng.permutation(sum(len(scenes) for scenes in places.scenes.values()))
    train_places = rng.choice(list(places.scenes), size=len(cub.species), replace=False)
    test_places = np.roll(train_places, 1)
    index = {int(place): i for i, place in enumerate(train_places)}

    validation = stratified_validation(cub.birds, VALIDATION_SHARE, seed)
    # Of its own, so that train and test are the same with and without.
    val_rng = np.random.default_rng([seed, options.other_places_in_val])
    scenes_at_home = [places.scenes[int(place)] for place in train_places]
    recipes: list[Recipe] = []
    for label in range(len(cub.species)):
        birds = sorted((bird for bird in cub.birds if bird.label == label), key=lambda bird: bird.file)
        at_home, away = int(train_places[label]), int(test_places[label])
        home_scenes = _draw(rng, places.scenes[at_home], len(birds))
        away_scenes = _draw(rng, places.scenes[away], len(birds))
        for bird, home, abroad in zip(birds, home_scenes, away_scenes, strict=True):
            elsewhere = options.other_places_in_val if bird.number in validation else 0
            if elsewhere:
                conditions = _elsewhere(val_rng, label, scenes_at_home, elsewhere)
            else:
                conditions = _conditions(bird, validation, index[at_home], index[away], home, abroad)
            for split, place, background in conditions:
                recipe = bird_recipe(bird, card, split, label=label, group=label, place=place, background=background)
                # The same bird before several places of one split is as many samples.
                recipes.append(replace(recipe, key=f"{recipe.key}-before-{place}") if elsewhere else recipe)
    fewest = min(len(scenes) for scenes in places.scenes.values())
    most = max(np.bincount([bird.label for bird in cub.birds]))
    notes = [
        f"composites regenerated with seed {seed} from CUB, segmentations and Places365 validation: not the "
        "release's images"
    ]
    if fewest < most:
        notes.append(f"a place has as few as {fewest} scenes for up to {most} birds of a species: scenes repeat")
    names = [places.names[int(place)] for place in train_places]
    return Plan(
        recipes=Recipes(recipes),
        classes=cub.species,
        groups=cub.species,
        places=names,
        files={
            "train_places.json": _places_file(cub, train_places.tolist()),
            "test_places.json": _places_file(cub, test_places.tolist()),
        },
        notes=notes,
    )


def _conditions(
    bird: Bird, validation: set[int], home: int, away: int, home_scene: Path, away_scene: Path
) -> list[tuple[str, int, Path | str]]:
    """Where one bird appears: (split, place index, background)."""
    if bird.number in validation:
        return [("val", home, home_scene)]
    if bird.in_train:
        return [("train", home, home_scene)]
    return [
        ("test", away, away_scene),
        ("test_training_places", home, home_scene),
        ("test_black", -1, BLACK),
    ]


def _elsewhere(
    rng: np.random.Generator, label: int, scenes_at_home: Sequence[Sequence[Path]], size: int
) -> list[tuple[str, int, Path | str]]:
    """Where a validation bird appears before other species' training places, never its own or its test place.

    As `_conditions` has it: (split, place index, background).
    """
    test_place = (label - 1) % len(scenes_at_home)
    others = [place for place in range(len(scenes_at_home)) if place not in (label, test_place)]
    if size > len(others):
        raise DataError(
            f"{len(scenes_at_home)} species cannot stand before {size} other species' places, the test place left out; "
            "lower options.other_places_in_val in the card"
        )
    drawn = [int(place) for place in rng.choice(others, size=size, replace=False)]
    return [("val", place, scenes_at_home[place][int(rng.integers(len(scenes_at_home[place])))]) for place in drawn]


def _draw(rng: np.random.RandomState, scenes: list[Path], size: int) -> list[Path]:
    """Draws scenes without replacement; where they are too few, starts over with a new permutation."""
    order: list[int] = []
    while len(order) < size:
        order.extend(int(i) for i in rng.permutation(len(scenes)))
    return [scenes[i] for i in order[:size]]


def _read_places(raw: RawFolder, card: Card) -> _Places:
    lists = raw.open(card, "places_lists")
    folder = raw.open(card, "places_val")
    names = {number: name.lstrip("/") for name, number in _pairs(lists / "categories_places365.txt")}
    scenes: dict[int, list[Path]] = {}
    for file, number in _pairs(lists / "places365_val.txt"):
        if number not in names:
            raise DataError(
                f"{lists / 'places365_val.txt'}: {file} has place {number}, which "
                "categories_places365.txt lacks; get the official file"
            )
        scenes.setdefault(number, []).append(member(folder, file))
    return _Places(names, scenes)


def _pairs(path: Path) -> list[tuple[str, int]]:
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, value = line.split()
            pairs.append((name, int(value)))
        except ValueError:
            raise DataError(f"{path}, line {number}: '{line:.80}' is not '<name> <number>'; mend it") from None
    return pairs


def _places_file(cub: Cub, places: list[int]) -> bytes:
    content = dict(zip(cub.species, places, strict=True))
    return json.dumps(content, indent=4, sort_keys=True).encode() + b"\n"


def plan_release(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans the release's own composites; each of its folders holds all birds, so CUB's split filters.

    ``test_random`` is there where the raw folder has ``CUB_random``.

    Raises:
        DataError: If a map from species to place is malformed.
    """
    del variant
    cub = read_cub(raw, card)
    fixed = raw.open(card, FIXED)
    black, random = (
        raw.open(card, name) if raw.has(card.source(name)) else None for name in (BLACK_SOURCE, RANDOM_SOURCE)
    )
    home = _read_place_map(fixed / "train_places.json", cub)
    away = _read_place_map(fixed / "test_places.json", cub)
    index = {place: i for i, place in enumerate(home)}
    validation = stratified_validation(cub.birds, VALIDATION_SHARE, seed)
    recipes: list[Recipe] = []
    for bird in cub.birds:
        in_train, in_test = member(fixed / "train", bird.file), member(fixed / "test", bird.file)
        here, there = index[home[bird.label]], index.get(away[bird.label], -1)
        if bird.in_train:
            conditions = [("val" if bird.number in validation else "train", here, in_train)]
        else:
            conditions = [("test", there, in_test), ("test_training_places", here, in_train)]
        recipes.extend(
            bird_recipe(bird, card, split, label=bird.label, group=bird.label, place=place, image=image)
            for split, place, image in conditions
        )
        if not bird.in_train:
            # Without CUB_black the black background is composed, which is exact.
            background, image = (BLACK, None) if black is None else (None, member(black, bird.file))
            recipes.append(
                bird_recipe(
                    bird,
                    card,
                    "test_black",
                    label=bird.label,
                    group=bird.label,
                    background=background,
                    image=image,
                )
            )
            if random is not None:
                image = member(random, bird.file)
                recipes.append(bird_recipe(bird, card, "test_random", label=bird.label, group=bird.label, image=image))
    notes = ["official composites of CUB_fixed, filtered by CUB's split"]
    notes += ["test_black composed here, which is exact: CUB_black is not in the raw folder"] if black is None else []
    notes += ["no test_random: CUB_random is not in the raw folder"] if random is None else []
    return Plan(
        recipes=Recipes(recipes),
        classes=cub.species,
        groups=cub.species,
        places=[str(place) for place in home],
        files={name: (fixed / name).read_bytes() for name in ("train_places.json", "test_places.json")},
        notes=notes,
    )


def _read_place_map(path: Path, cub: Cub) -> list[int]:
    """Reads the authors' ``{species folder: place class}`` in label order."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [int(content[species]) for species in cub.species]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not name one place number for each species ({type(error).__name__}: {error}); "
            "get the official CUB_fixed"
        ) from None
