"""A plan's recipes lie on disk; what they give must be what lists would."""

import gc
import hashlib
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aimbench.cards import load_card
from aimbench.data.assemble import check_plan
from aimbench.data.layouts import Plan
from aimbench.data.layouts.held_out import hold_out
from aimbench.data.recipes import Recipes
from aimbench.data.samples import Recipe
from aimbench.data.shards import Fingerprint
from aimbench.errors import DataError


def recipe(key: str, label: int = 0, split: str = "train") -> Recipe:
    image = Path("images") / f"{key}.jpg"
    return Recipe(split, key, label, label, -1, f"{key}.jpg", image, None, ((1.0, 2.0, 3.0, 4.0),), None, 0.5)


def some() -> list[Recipe]:
    names = [f"bird é {i}" if i % 7 else f"bird {i} 鳥" for i in range(400)]
    random.Random(0).shuffle(names)
    return [recipe(name, label=i % 3, split="test" if i % 5 == 0 else "train") for i, name in enumerate(names)]


def test_order_and_counts_are_those_of_a_list() -> None:
    expected, recipes = some(), Recipes(some())
    assert list(recipes) == expected
    assert len(recipes) == 400
    for split in ("train", "test"):
        members = [r for r in expected if r.split == split]
        assert list(recipes.in_shards(split)) == sorted(members, key=lambda r: hashlib.sha256(r.key.encode()).digest())
    assert {(s, y, g): n for s, y, g, n in recipes.counts()} == Counter((r.split, r.label, r.group) for r in expected)


def test_validation_is_drawn_from_the_sorted_names_of_each_class() -> None:
    expected, rng = set(), np.random.default_rng(3)
    for label in range(3):
        names = sorted(r.key for r in some() if r.split == "train" and r.label == label)
        expected.update(rng.choice(names, size=round(0.25 * len(names)), replace=False).tolist())
    recipes = Recipes(some())
    hold_out(recipes, 0.25, seed=3)
    assert {r.key for r in recipes.in_shards("val")} == expected
    assert [r.key for r in recipes] == [r.key for r in some()], "the order stays"
    assert {r.split for r in recipes if r.key in expected} == {"val"}


def test_the_first_name_that_is_there_twice_is_found() -> None:
    assert Recipes([recipe("a"), recipe("a", split="test")]).twice() is None
    found = Recipes([recipe("a"), recipe("b"), recipe("c", 1), recipe("c", 2), recipe("b", 3)]).twice()
    assert found is not None
    assert [(r.key, r.label) for r in found] == [("b", 0), ("b", 3)]


@pytest.mark.parametrize(
    ("label", "lists", "said"), [(2, (2, 3), "label 2 .* 2 classes"), (2, (3, 2), "group 2 .* 2 groups")]
)
def test_an_index_behind_its_list_is_refused(label: int, lists: tuple[int, int], said: str) -> None:
    classes, groups = ([f"{i}" for i in range(size)] for size in lists)
    with pytest.raises(DataError, match=f"train sample a: {said}"):
        check_plan(load_card("cub"), Plan(Recipes([recipe("a", label)]), classes, groups))
    check_plan(load_card("cub"), Plan(Recipes([recipe("a", 1)]), classes, groups))


def test_removed_recipes_are_gone() -> None:
    recipes = Recipes(some())
    recipes.remove([number for number, r in recipes.numbered() if r.label == 1])
    assert list(recipes) == [r for r in some() if r.label != 1]


def test_fingerprint_is_the_hash_of_the_sorted_lines() -> None:
    lines = [f"train\t{r.key}\tjpg:{i:04d}" for i, r in enumerate(some())]
    fingerprint = Fingerprint()
    fingerprint.add(lines[:100])
    fingerprint.add(lines[100:])
    assert fingerprint.hexdigest() == hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def test_recipes_are_not_kept_in_memory() -> None:
    def alive() -> int:
        return sum(type(thing) is Recipe for thing in gc.get_objects())

    before = alive()
    recipes = Recipes(recipe(f"n{i}", label=i % 10) for i in range(200))
    hold_out(recipes, 0.1, seed=0)
    in_order = recipes.in_shards("train")
    for _ in range(100):
        next(in_order)
    assert alive() - before <= 2
