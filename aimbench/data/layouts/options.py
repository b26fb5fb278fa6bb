"""Reads the options that a card gives to a builder."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aimbench.cards import Card, Variant
from aimbench.errors import CardError
from aimbench.wrong_fields import wrong_fields

_Model = TypeVar("_Model", bound=BaseModel)


class Options(BaseModel):
    """Base of the options of a builder: an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_options(model: type[_Model], card: Card, variant: Variant) -> _Model:
    """Validates the options of a variant.

    Raises:
        CardError: Naming card, layout and option.
    """
    try:
        return model.model_validate(variant.options)
    except ValidationError as error:
        problems = wrong_fields(error, model, below="options", noun="option")
        raise CardError(f"card of {card.name}, layout {variant.layout}: {problems}") from None
