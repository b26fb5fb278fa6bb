"""Puts into words what a pydantic model found wrong: one wording for cards, plans, records and settings."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from aimbench.errors import nearest_names

_SHOWN = 60  # characters of a wrong value


def wrong_fields(error: ValidationError, model: type[BaseModel] | None, *, below: str = "", noun: str = "field") -> str:
    """Returns all that is wrong on one line: each field by its place, what is wrong there, and the mend.

    Args:
        error: What the model raised.
        model: The model itself, for the names near an unknown one; None gives none.
        below: Where in a file the model stands, such as ``options``; put before the places.
        noun: What a reader calls a field, such as ``setting``.
    """
    return "; ".join(
        _in_words(found, model, (below, *found["loc"]) if below else found["loc"], noun)
        for found in error.errors(include_url=False)
    )


def _in_words(found: Any, model: type[BaseModel] | None, place: tuple[int | str, ...], noun: str) -> str:
    # Entries of a list are counted from one.
    name = ".".join(str(part + 1 if isinstance(part, int) else part) for part in place)
    if found["type"] == "extra_forbidden":
        owner = _model_at(model, found["loc"][:-1])
        hint = f"; {nearest_names(str(found['loc'][-1]), owner.model_fields)}" if owner else ""
        return f"{noun} '{name}' does not exist{hint} (rename or remove it)"
    if found["type"] == "missing":
        return f"{noun} '{name}' is missing (add it)"
    message = found["msg"].removeprefix("Value error, ")
    if not found["loc"]:  # of fields that contradict each other the message names each
        return f"{name}: {message}" if name else message
    return f"{noun} '{name}': {message} (got {found['input']!r:.{_SHOWN}})"


def _model_at(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model whose fields lie at a place; None where the annotations do not tell."""
    at: Any = model
    for part in place:
        if isinstance(at, type) and issubclass(at, BaseModel):
            if part not in at.model_fields:
                return None
            at = _bare(at.model_fields[str(part)].annotation)
        else:  # the values of a mapping, the entries of a list
            inner = [argument for argument in get_args(at) if argument is not Ellipsis]
            at = _bare(inner[-1]) if inner else None
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """The type itself of ``X | None`` and of ``Annotated[X, ...]``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(argument for argument in get_args(annotation) if argument is not type(None)))
    return annotation
