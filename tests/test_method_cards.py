"""Every registered method says what it reproduces, and the published numbers that it names exist."""

from pathlib import Path

import pytest
import yaml

from aimbench.errors import CardError
from aimbench.method_cards import load_method_card
from aimbench.results.reference import load_references
from aimbench.train.registry import MethodEntry, list_methods, method_card

ROOT = Path(__file__).parents[1]
METHODS = pytest.mark.parametrize("entry", list_methods(), ids=lambda entry: entry.name)
# Required whatever the method; a field that may be left out only with a reason has a test of its own.
REQUIRED = ["title", "authors", "venue", "year", "bibtex", "equation", "official", "regime", "frozen", "deviations"]


@METHODS
def test_every_method_has_a_whole_card(entry: MethodEntry) -> None:
    card = load_method_card(entry.card_file)
    assert card.bibtex.startswith("@")
    assert card.year == 2026 or card.url  # only what is our own has no paper to link to
    assert method_card(entry.name) == card


@METHODS
def test_published_numbers_that_a_card_names_are_in_the_reference_tables(entry: MethodEntry) -> None:
    known = {reference.method for reference in load_references(ROOT / "results" / "reference")}
    assert set(load_method_card(entry.card_file).reference) <= known


def write(tmp_path: Path, **changes: object) -> Path:
    content = yaml.safe_load(method_file("erm").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**content, **changes}.items() if v is not None}))
    return path


def method_file(name: str) -> Path:
    return next(entry.card_file for entry in list_methods() if entry.name == name)


@pytest.mark.parametrize("field", [*REQUIRED, "reference"])
def test_a_card_that_lacks_a_field_is_refused_by_name(field: str, tmp_path: Path) -> None:
    with pytest.raises(CardError, match=rf"mine\.yaml: field '{field}' is missing"):
        load_method_card(write(tmp_path, **{field: None}))


def test_deviations_are_stated_even_if_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="field 'deviations'"):
        load_method_card(write(tmp_path, deviations=[]))
    assert load_method_card(write(tmp_path, deviations=["none known"]))


@pytest.mark.parametrize("field", ["official", "reference"])
def test_an_empty_list_needs_a_reason(field: str, tmp_path: Path) -> None:
    with pytest.raises(CardError, match=f"'{field}' is empty and '{field}_note' does not say why"):
        load_method_card(write(tmp_path, **{field: []}))
    assert load_method_card(write(tmp_path, **{field: [], f"{field}_note": "Nothing is published."}))


def test_an_unknown_need_and_an_unknown_field_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"field 'needs\.1'"):
        load_method_card(write(tmp_path, needs=["luck"]))
    with pytest.raises(CardError, match="field 'colour'"):
        load_method_card(write(tmp_path, colour="blue"))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"none\.yaml does not exist; write it"):
        load_method_card(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(CardError, match=r"broken\.yaml is no YAML"):
        load_method_card(tmp_path / "broken.yaml")
