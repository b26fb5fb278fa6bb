"""Counts the samples of splits, and compares them with a card's official counts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from aimbench.cards import Card, SplitCounts
from aimbench.data.manifest import SplitSummary
from aimbench.data.samples import Recipe


def summarise(
    labels: Iterable[int], groups: Iterable[int], class_names: list[str], group_names: list[str]
) -> SplitSummary:
    """Counts the samples of one split by class and group name."""
    by_label, by_group = Counter(labels), Counter(groups)
    return SplitSummary(
        count=by_label.total(),
        classes={name: by_label[i] for i, name in enumerate(class_names)},
        groups={name: by_group[i] for i, name in enumerate(group_names)},
    )


def summarise_recipes(recipes: list[Recipe], class_names: list[str], group_names: list[str]) -> dict[str, SplitSummary]:
    """Counts the samples that a plan would make, by split."""
    by_split: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_split.setdefault(recipe.split, []).append(recipe)
    return {
        split: summarise((r.label for r in some), (r.group for r in some), class_names, group_names)
        for split, some in by_split.items()
    }


def differences(card: Card, variant: str, classes: list[str], found: Mapping[str, SplitSummary]) -> list[str]:
    """Compares counts with the card's; there, ``train+val`` stands for both splits together.

    Args:
        card: Of the dataset.
        variant: Its name.
        classes: Class names that were found.
        found: Counts by split.

    Returns:
        One phrase for each difference.
    """
    phrases = [f"{len(classes)} classes, not {card.num_classes}"] if len(classes) != card.num_classes else []
    for split, expected in card.variants[variant].counts.items():
        parts = [found[name] for name in split.split("+") if name in found]
        count = sum(part.count for part in parts)
        if expected.count is not None and count != expected.count:
            phrases.append(f"{split} has {count} samples, not {expected.count}")
        for what, wanted in (("classes", _class_counts(expected, len(classes))), ("groups", expected.groups)):
            have = _sums(parts, what)
            if wanted is not None and have != wanted:
                phrases.append(f"{split} {what} {have}, not {wanted}")
    return phrases


def _sums(parts: list[SplitSummary], what: str) -> list[int]:
    """Adds the counts of several splits, in index order."""
    return [sum(numbers) for numbers in zip(*(getattr(part, what).values() for part in parts), strict=True)]


def _class_counts(expected: SplitCounts, num_classes: int) -> list[int] | None:
    return expected.classes if expected.each_class is None else [expected.each_class] * num_classes
