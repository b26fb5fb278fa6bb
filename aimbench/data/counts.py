"""Counts the samples of splits, and compares them with a card's official counts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from aimbench.cards import Card, SplitCounts
from aimbench.data.manifest import SplitSummary
from aimbench.data.recipes import Recipes


def summarise_recipes(recipes: Recipes, class_names: list[str], group_names: list[str]) -> dict[str, SplitSummary]:
    """Counts the samples that a plan would make, by split."""
    return summarise_counts(recipes.counts(), class_names, group_names)


def summarise_counts(
    counts: Iterable[tuple[str, int, int, int]], class_names: list[str], group_names: list[str]
) -> dict[str, SplitSummary]:
    """Adds up (split, label, group, number of samples), by split."""
    labels: dict[str, Counter[int]] = {}
    groups: dict[str, Counter[int]] = {}
    for split, label, group, number in counts:
        labels.setdefault(split, Counter())[label] += number
        groups.setdefault(split, Counter())[group] += number
    return {
        split: SplitSummary(
            count=labels[split].total(),
            classes={name: labels[split][i] for i, name in enumerate(class_names)},
            groups={name: groups[split][i] for i, name in enumerate(group_names)},
        )
        for split in labels
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
    counted = card.variants[variant].counts
    for split in ("train", "val", "test"):
        if split in card.splits and split not in found and split not in counted:
            phrases.append(f"{split} has no sample")
    for split in ("train", "test"):
        if split in found and (empty := [name for name, count in found[split].classes.items() if count == 0]):
            phrases.append(f"{split} has no sample of {len(empty)} classes, the first {empty[0]}")
    for split, expected in counted.items():
        parts = [found[name] for name in split.split("+") if name in found]
        count = sum(part.count for part in parts)
        if not count:
            phrases.append(f"{split} has no sample")
            continue
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
