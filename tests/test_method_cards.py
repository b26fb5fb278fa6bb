"""Every registered method says what it reproduces, and the published numbers that it names exist."""

import re
from pathlib import Path

import pytest
import yaml

from aimbench.errors import CardError
from aimbench.method_cards import load_method_card
from aimbench.results.reference import load_references
from aimbench.train.registry import MethodEntry, get_method, list_methods, method_card

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


@METHODS
def test_the_default_of_a_setting_is_what_the_card_calls_official(entry: MethodEntry) -> None:
    """Of settings that a card names as the method does; a default of None follows the run's own epochs."""
    defaults = get_method(entry.name).configure({}).model_dump()
    for official in load_method_card(entry.card_file).official:
        default, text = defaults.get(official.name), str(official.value)
        if isinstance(default, bool | str):
            assert text.lower().startswith(str(default).lower()), official.name
        elif default is not None:
            number = re.search(r"\d[\d.]*", text)
            assert number is not None, official.name
            assert float(number[0]) == default, official.name


@pytest.mark.parametrize(
    ("method", "defaults"),
    [
        ("afr", {"kept": 0.2, "candidates": 10}),  # 80 % for ERM; ten equal parts of the descent
        (
            "cnc",
            {"contrastive_weight": 0.75, "contrast_epochs": None, "anchors": "balanced"},
        ),  # lambda; the run's epochs
        ("dfr_val", {"inverse_strengths": (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)}),  # C
        ("dfr_train", {"inverse_strengths": (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)}),
        ("irm", {"anneal_fraction": 0.1}),  # 500 of 5,001 steps
        ("lff", {"scale_by_q": True}),  # as in the authors' code
        ("oracle_mask", {"inverse": False}),
        ("rrr", {"weight": 10.0}),  # ours
    ],
)
def test_defaults_that_cards_state_in_words(method: str, defaults: dict[str, object]) -> None:
    found = get_method(method).configure({}).model_dump()
    assert {name: found[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("train", "select", "methods"),
    [
        ("class", "class", "erm upweight crt mixup masktune scda aim aim_plus topdown bottomup"),
        ("class", "val_groups", "rwy suby jtt lff cnc afr"),
        ("groups", "val_groups", "rwg subg groupdro lisa irm dfr_train"),
        ("val_groups", "val_groups", "dfr_val"),
        ("masks", "class", "gals rrr oracle_mask aim_oracle"),
    ],
)
def test_what_a_method_reads_is_what_its_source_reads(train: str, select: str, methods: str) -> None:
    """As baselines/README.md has it. Trials are chosen, and rows compared, by it."""
    for name in methods.split():
        regime = get_method(name).regime
        assert (regime.train, regime.select) == (train, select), name


def test_training_settings_that_a_methods_card_states_are_its_own() -> None:
    """ERM's rate is what its trials chose; MaskTune's schedule is its source's, halved after each quarter."""
    assert get_method("erm").training_defaults == {"lr": 3e-3}
    assert get_method("masktune").training_defaults == {"schedule": "step"}


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
