"""What a method needs of a training set to be defined at all, and whether a dataset has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Need = Literal["all_groups_in_train", "all_groups_in_val", "shared_places"]

MEANING: Mapping[str, str] = {
    "all_groups_in_train": "every group has training samples",
    "all_groups_in_val": "every group has validation samples",
    "shared_places": "groups are class x place, and some place is seen with two classes in training",
}
"""Each need in words."""


@dataclass(frozen=True)
class GroupCounts:
    """How many samples each group has: all that decides whether a method is defined on a dataset.

    Attributes:
        num_classes: K.
        names: of the G groups.
        train, val: samples of each group, G entries; None where a card does not state them.
    """

    num_classes: int
    names: Sequence[str]
    train: Sequence[int] | None = None
    val: Sequence[int] | None = None


def unmet(need: Need, counts: GroupCounts) -> str | None:
    """Why a dataset does not have what is needed, or None if it has (or if the counts are not known)."""
    if need == "shared_places":
        return _no_shared_place(counts)
    split = need.removeprefix("all_groups_in_")
    numbers = counts.train if split == "train" else counts.val
    empty = [name for name, number in zip(counts.names, numbers or (), strict=False) if number == 0]
    return f"{_words(empty)} without samples in {split}" if empty else None


def _no_shared_place(counts: GroupCounts) -> str | None:
    places, rest = divmod(len(counts.names), counts.num_classes)
    if rest or places < 2:
        return "its groups are not class x place"
    if counts.train is None:
        return None
    classes_at = [sum(number > 0 for number in counts.train[place::places]) for place in range(places)]
    return None if max(classes_at) > 1 else "no place is seen with two classes in train"


def _words(empty: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in empty[:3]) + (", ..." if len(empty) > 3 else "")
    return f"group {shown} is" if len(empty) == 1 else f"groups {shown} are"
