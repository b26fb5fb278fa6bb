"""Label, group and place of a row of a table, whether CSV or Hugging Face dataset."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field

from aimbench.cards import Card
from aimbench.data.layouts.options import Options
from aimbench.errors import CardError, DataError, nearest_names

Value = str | int | float | bool | None


class TableOptions(Options):
    """Options that all tables share: which column says what."""

    image: str = "image"
    label: str = "label"
    group: str | None = Field(default=None, description="Column of the group: its name on the card, or its index.")
    place: str | None = Field(default=None, description="Column of the spurious attribute: a name or an index.")
    places: list[str] = Field(default_factory=list, description="Names of the places in index order.")
    class_names: list[str] = Field(default_factory=list, description="In place of the card's, in label order.")
    mask: str | None = Field(default=None, description="Column of the mask.")
    mask_threshold: float | None = Field(default=None, gt=0, lt=1, description="In place of the card's.")
    validation_share: float = Field(default=0, ge=0, lt=1, description="Share of train drawn for val.")


@dataclass(frozen=True)
class Labels:
    """Turns the values of a row into indices.

    Attributes:
        card: Of the dataset.
        options: Which column says what.
        classes: Class names in label order.
        groups: Group names in index order.
        places: Place names in index order.
    """

    card: Card
    options: TableOptions
    classes: list[str]
    groups: list[str]
    places: list[str]

    def read(self, label: Value, group: Value, place: Value, where: str) -> tuple[int, int, int]:
        """Returns label, group and place of a row.

        ``group`` goes before ``label * number of places + place``; a dataset
        whose groups are its classes needs neither.

        Raises:
            DataError: Naming ``where``, if a value is none of the names and no index.
        """
        y = _index(label, self.classes, f"{where}: {self.options.label}", "class")
        at = -1
        if self.options.place is not None:
            at = _index(place, self.places, f"{where}: {self.options.place}", "place")
        if self.options.group is not None:
            return y, _index(group, self.groups, f"{where}: {self.options.group}", "group"), at
        if self.card.groups == "classes":
            return y, y, at
        return y, y * len(self.places) + at, at


def make_labels(card: Card, options: TableOptions, labels: Iterable[Value], places: Iterable[Value]) -> Labels:
    """Takes the class names from the card, else from the data, and checks that the groups can be told.

    Raises:
        CardError: If the card lists groups that follow from no column, or from places in no stated order.
    """
    classes = options.class_names or card.classes or _names(labels)
    place_names = options.places or (_names(places) if options.place else [])
    groups = classes if card.groups == "classes" else card.groups
    derived = len(classes) * len(place_names)
    if card.groups != "classes" and options.group is None:
        if options.place is None or len(groups) != derived:
            raise CardError(
                f"card of {card.name}: its {len(groups)} groups follow from no column; name options.group, or "
                f"options.place with as many groups as classes x places ({len(classes)} x {len(place_names)})"
            )
        # Indices say by themselves which place they are; names do so in the order of a list.
        if not options.places and place_names != [str(i) for i in range(len(place_names))]:
            raise CardError(
                f"card of {card.name}: its groups are told by class and place; list options.places in the order in "
                f"which the groups name them (found: {', '.join(place_names)})"
            )
    return Labels(card, options, classes, list(groups), place_names)


def _names(values: Iterable[Value]) -> list[str]:
    """The different values, sorted; whole numbers as numbers, so that 10 comes after 9."""
    names = {str(value) for value in values if value is not None}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _index(value: Value, names: list[str], where: str, what: str) -> int:
    text = "" if value is None else str(value).strip()
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise DataError(f"{where} is '{text}', which is no {what}; {nearest_names(text, names)}")
