"""Draws a validation split where a dataset has none."""

from itertools import groupby

import numpy as np

from aimbench.data.recipes import Recipes


def hold_out(recipes: Recipes, share: float, seed: int) -> None:
    """Moves ``share`` of each class of ``train`` to ``val``, drawn with a seed.

    Args:
        recipes: Of all splits; changed in place.
        share: In [0, 1); 0 leaves the recipes as they are.
        seed: Of the draw, which depends on the names of the samples and not on their order.
    """
    if share == 0:
        return
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for _, members in groupby(recipes.by_class("train"), key=lambda member: member[0]):
        numbers = [number for _, number in members]
        chosen.extend(numbers[i] for i in rng.choice(len(numbers), size=round(share * len(numbers)), replace=False))
    recipes.move(chosen, "val")
