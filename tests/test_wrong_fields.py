from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aimbench.wrong_fields import wrong_fields


class _Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "green"


class _Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")

    height: float = Field(gt=0)
    leaf: _Leaf | None = None
    leaves: list[_Leaf] = []
    pairs: tuple[_Leaf, ...] = ()
    by_name: dict[str, Annotated[_Leaf, Field(description="a leaf")]] = {}
    scalar: int = 0

    @model_validator(mode="after")
    def _agree(self) -> "_Tree":
        if self.height < self.scalar:
            raise ValueError("'scalar' is above 'height'")
        return self


def _words(content: object, **how: str) -> str:
    with pytest.raises(ValidationError) as caught:
        _Tree.model_validate(content)
    return wrong_fields(caught.value, _Tree, **how)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"leaf": {"color": "red"}}, "leaf.color"),
        ({"leaves": [{}, {"color": "red"}]}, "leaves.2.color"),
        ({"pairs": [{"color": "red"}]}, "pairs.1.color"),
        ({"by_name": {"oak": {"color": "red"}}}, "by_name.oak.color"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_of_its_own_model(content: dict[str, object], place: str) -> None:
    expected = f"field '{place}' does not exist; did you mean 'colour'? (rename or remove it)"
    assert _words({"height": 1, **content}) == expected


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = _words({"scalar": "many", "hight": 2})
    assert found.split("; ")[0] == "field 'height' is missing (add it)"
    assert "field 'scalar': Input should be a valid integer" in found
    assert "(got 'many')" in found
    assert "field 'hight' does not exist; did you mean 'height'?" in found


def test_a_contradiction_is_said_in_the_models_own_words() -> None:
    assert _words({"height": 1, "scalar": 2}) == "'scalar' is above 'height'"


def test_the_place_in_the_file_and_the_readers_word_come_first() -> None:
    assert _words({"height": 0}, below="options", noun="option").startswith("option 'options.height': ")


def test_a_long_value_is_cut() -> None:
    assert len(_words({"height": "x" * 1000})) < 200
