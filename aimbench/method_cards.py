"""What a method claims to reproduce: the card beside its code, ``<name>.yaml``.

A card says where a method is defined, which equation and official settings it
stands for, and in what ours deviates. Published numbers are not repeated here:
``reference`` names rows of ``results/reference/*.csv``. Nor are ours, which are
read from the records wherever a card is shown.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from aimbench.errors import CardError
from aimbench.needs import Need
from aimbench.wrong_fields import wrong_fields
from aimbench.yaml_text import parse_yaml

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OfficialSetting(_Strict):
    """One hyperparameter of the source for Waterbirds."""

    name: _Text
    value: str | int | float | bool
    origin: _Text = Field(description="Where it was read: paper and section, or repository and file.")


class MethodCard(_Strict):
    """A method's reproduction card."""

    title: _Text = Field(description="Of the paper that defines the method, or what a control of ours is for.")
    authors: _Text
    venue: _Text
    year: int = Field(ge=1900)
    url: str = Field(default="", pattern=r"^(https://\S+)?$")
    bibtex: _Text
    equation: _Text = Field(description="In plain text, with each symbol named.")
    official: list[OfficialSetting] = Field(description="Hyperparameters of the source for Waterbirds.")
    official_note: str = Field(default="", description="Why there is no official setting, where the list is empty.")
    regime: _Text = Field(description="In words: which labels are read in training and in selection.")
    needs: list[Need] = Field(default_factory=list, description="The method is undefined on sets without these.")
    degenerates: str = Field(default="", description="Where it is defined but falls back to a simpler method.")
    frozen: _Text = Field(description="How it runs on cached features of a frozen backbone, or why not.")
    deviations: list[_Text] = Field(min_length=1, description="From the source; 'none known' if there are none.")
    later: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings that came after records had been made, with the values those were made with; a "
        "definition leaves such a setting out at that value, so that ids stay.",
    )
    not_before: list[str] = Field(
        default_factory=list,
        description="Settings that came later and had no earlier value: a record without one cannot be made again.",
    )
    reference: list[_Text] = Field(description="Names of methods in results/reference/*.csv.")
    reference_note: str = Field(default="", description="Why there is no published number, where the list is empty.")

    @model_validator(mode="after")
    def _empty_lists_are_explained(self) -> "MethodCard":
        for name in ("official", "reference"):
            if not getattr(self, name) and not getattr(self, f"{name}_note"):
                raise ValueError(f"'{name}' is empty and '{name}_note' does not say why")
        return self


def load_method_card(path: Path) -> MethodCard:
    """Reads and checks a card.

    Raises:
        CardError: it is missing or malformed; names the file and the field.
    """
    if not path.exists():
        raise CardError(
            f"method card {path} does not exist; write it beside the method (CONTRIBUTING.md names its fields)"
        )
    try:
        return MethodCard.model_validate(_parsed(path))
    except ValidationError as error:
        raise CardError(f"method card {path}: {wrong_fields(error, MethodCard)}") from error


def read_later(path: Path) -> dict[str, Any]:
    """Reads the field ``later`` alone, of a card that may still lack others; empty if there is no card.

    Raises:
        CardError: it is no YAML.
    """
    content = _parsed(path) if path.exists() else None
    later = content.get("later") if isinstance(content, dict) else None
    return later if isinstance(later, dict) else {}


def _parsed(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise CardError(f"method card {path} is no YAML: {' '.join(str(error).split())}") from error
