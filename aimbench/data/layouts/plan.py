"""What a builder returns: the recipes of all samples, and what they mean."""

from collections.abc import Callable
from dataclasses import dataclass, field

from aimbench.cards import Card, Variant
from aimbench.data.raw import RawFolder
from aimbench.data.recipes import Recipes


@dataclass(frozen=True)
class Plan:
    """A dataset before it is rendered.

    Attributes:
        recipes: One for each sample, all splits.
        classes: Class names in label order.
        groups: Group names in index order.
        places: Place names in index order; empty where the dataset has none.
        files: Further files of the dataset folder, by name, e.g. ``metadata.csv``.
        notes: What a user of this build should know.
        lacking: What the raw folder lacks of the whole dataset, beyond what counts show.
    """

    recipes: Recipes
    classes: list[str]
    groups: list[str]
    places: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


Builder = Callable[[RawFolder, Card, Variant, int], Plan]
"""From raw folder, card, variant and seed to a plan."""
