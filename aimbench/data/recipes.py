"""The recipes of a plan, on disk: the memory of a build does not grow with its samples."""

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace

from aimbench.data.samples import Recipe
from aimbench.data.spill import temporary_database


class Recipes:
    """Recipes in the order in which a builder adds them, numbered from 1.

    They lie in a temporary database that is gone with this object.
    """

    def __init__(self, recipes: Iterable[Recipe] = ()) -> None:
        self._database = temporary_database(
            "CREATE TABLE recipes (number INTEGER PRIMARY KEY, split TEXT, label INTEGER, group_index INTEGER, "
            "key BLOB, digest BLOB, recipe BLOB)"
        )
        # The pickles are made and read by this object alone.
        self._database.executemany(
            "INSERT INTO recipes (split, label, group_index, key, digest, recipe) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (r.split, r.label, r.group, key := _bytes(r.key), hashlib.sha256(key).digest(), pickle.dumps(r))
                for r in recipes
            ),
        )

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM recipes").fetchone()[0])

    def __iter__(self) -> Iterator[Recipe]:
        for _, recipe in self.numbered():
            yield recipe

    def numbered(self) -> Iterator[tuple[int, Recipe]]:
        """Yields (number, recipe) in the order in which they were added."""
        for number, split, recipe in self._database.execute(
            "SELECT number, split, recipe FROM recipes ORDER BY number"
        ):
            yield number, _load(recipe, split)

    def in_shards(self, split: str) -> Iterator[Recipe]:
        """Yields the recipes of a split as they go into shards.

        A hash order mixes the classes in every shard, the same way on every machine.
        """
        query = "SELECT recipe FROM recipes WHERE split = ? ORDER BY digest, key"
        for (recipe,) in self._database.execute(query, (split,)):
            yield _load(recipe, split)

    def counts(self) -> Iterator[tuple[str, int, int, int]]:
        """Yields (split, label, group, number of samples)."""
        yield from self._database.execute(
            "SELECT split, label, group_index, count(*) FROM recipes GROUP BY split, label, group_index"
        )

    def twice(self) -> tuple[Recipe, Recipe] | None:
        """Returns the first two recipes of a split that have the same key, if there are such."""
        query = "SELECT split, key FROM recipes GROUP BY split, key HAVING count(*) > 1 ORDER BY min(number) LIMIT 1"
        found = self._database.execute(query).fetchone()
        if found is None:
            return None
        query = "SELECT recipe FROM recipes WHERE split = ? AND key = ? ORDER BY number LIMIT 2"
        one, other = (_load(recipe, found[0]) for (recipe,) in self._database.execute(query, found))
        return one, other

    def find(self, split: str, key: str) -> Recipe:
        """Returns the recipe of a sample."""
        query = "SELECT recipe FROM recipes WHERE split = ? AND key = ?"
        (recipe,) = self._database.execute(query, (split, _bytes(key))).fetchone()
        return _load(recipe, split)

    def by_class(self, split: str) -> Iterator[tuple[int, int]]:
        """Yields (label, number) of a split, sorted by label and key."""
        query = "SELECT label, number FROM recipes WHERE split = ? ORDER BY label, key"
        yield from self._database.execute(query, (split,))

    def move(self, numbers: Iterable[int], split: str) -> None:
        """Moves recipes to another split; they keep their places in the order."""
        self._database.executemany(
            "UPDATE recipes SET split = ? WHERE number = ?", ((split, number) for number in numbers)
        )

    def remove(self, numbers: Iterable[int]) -> None:
        """Removes recipes."""
        self._database.executemany("DELETE FROM recipes WHERE number = ?", ((number,) for number in numbers))


def _bytes(key: str) -> bytes:
    # A file name that is no text is refused later, with its name; until then it must be kept.
    return key.encode("utf-8", "surrogatepass")


def _load(pickled: bytes, split: str) -> Recipe:
    recipe: Recipe = pickle.loads(pickled)
    return recipe if recipe.split == split else replace(recipe, split=split)
