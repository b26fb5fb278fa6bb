"""CUB-200-2011: the photographs as they are, or the birds cut out of them on black, with the official test split."""

from typing import Literal

from aimbench.cards import Card, Variant
from aimbench.data.layouts.cub_tables import bird_recipe, read_cub, stratified_validation
from aimbench.data.layouts.options import Options, read_options
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder
from aimbench.data.recipes import Recipes
from aimbench.data.samples import BLACK

VALIDATION_SHARE = 0.2


class _Options(Options):
    background: Literal["own", "black"] = "own"
    """``black``: nothing of the photograph is left but what the mask covers."""


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans train, val (20 % of CUB's train, seeded, within each species) and test.

    The JPEG bytes are kept, unless the background is to be black.
    """
    background = BLACK if read_options(_Options, card, variant).background == "black" else None
    cub = read_cub(raw, card)
    validation = stratified_validation(cub.birds, VALIDATION_SHARE, seed)
    recipes = []
    for bird in cub.birds:
        split = "val" if bird.number in validation else "train" if bird.in_train else "test"
        recipes.append(bird_recipe(bird, card, split, label=bird.label, group=bird.label, background=background))
    return Plan(recipes=Recipes(recipes), classes=cub.species, groups=cub.species)
