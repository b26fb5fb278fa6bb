"""Hints of error messages."""

import pytest

from aimbench.errors import nearest_names


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("ami", ["erm", "aim"], "did you mean 'aim'?"),
        ("AIM", ["erm", "aim"], "did you mean 'aim'?"),
        ("cat", ["Cat", "dog"], "did you mean 'Cat'?"),
        ("zzz", ["erm", "aim"], "known: aim, erm"),
        ("zzz", [], "known: none"),
    ],
)
def test_the_nearest_names_or_all(name: str, known: list[str], hint: str) -> None:
    assert nearest_names(name, known) == hint


def test_a_thousand_names_are_not_listed() -> None:
    hint = nearest_names("zzz", [f"{i:04}" for i in range(1000)])
    assert hint.startswith("known: 0000, 0001, ")
    assert hint.endswith(", 0059, ... (1000 in all)")
