"""Draws a validation split where a dataset has none."""

from dataclasses import replace

import numpy as np

from aimbench.data.samples import Recipe


def hold_out(recipes: list[Recipe], share: float, seed: int) -> list[Recipe]:
    """Moves ``share`` of each class of ``train`` to ``val``, drawn with a seed.

    Args:
        recipes: Of all splits.
        share: In [0, 1); 0 leaves the recipes as they are.
        seed: Of the draw, which depends on the names of the samples and not on their order.
    """
    if share == 0:
        return recipes
    rng = np.random.default_rng(seed)
    by_class: dict[int, list[str]] = {}
    for recipe in recipes:
        if recipe.split == "train":
            by_class.setdefault(recipe.label, []).append(recipe.key)
    chosen: set[str] = set()
    for label in sorted(by_class):
        keys = sorted(by_class[label])
        chosen.update(str(key) for key in rng.choice(keys, size=round(share * len(keys)), replace=False))
    return [replace(r, split="val") if r.split == "train" and r.key in chosen else r for r in recipes]
