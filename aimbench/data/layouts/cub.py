"""CUB-200-2011: the photographs as they are, with the official test split."""

from aimbench.cards import Card, Variant
from aimbench.data.layouts.cub_tables import bird_recipe, read_cub, stratified_validation
from aimbench.data.layouts.plan import Plan
from aimbench.data.raw import RawFolder
from aimbench.data.recipes import Recipes

VALIDATION_SHARE = 0.2


def plan(raw: RawFolder, card: Card, variant: Variant, seed: int) -> Plan:
    """Plans train, val (20 % of CUB's train, seeded, within each species) and test; keeps the JPEG bytes."""
    del variant
    cub = read_cub(raw, card)
    validation = stratified_validation(cub.birds, VALIDATION_SHARE, seed)
    recipes = []
    for bird in cub.birds:
        split = "val" if bird.number in validation else "train" if bird.in_train else "test"
        recipes.append(bird_recipe(bird, card, split, label=bird.label, group=bird.label))
    return Plan(recipes=Recipes(recipes), classes=cub.species, groups=cub.species)
