import shutil
from pathlib import Path

import pytest
import yaml

from aimbench.cards import default_cards_dir, list_cards, load_card, parse_dataset
from aimbench.errors import CardError


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    shutil.copytree(default_cards_dir(), tmp_path / "cards", ignore=shutil.ignore_patterns("*.py"))
    return tmp_path / "cards"


def edit(cards: Path, **changes: object) -> Path:
    path = cards / "cub" / "card.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def test_cards_of_the_bird_datasets_are_valid_and_have_a_mini() -> None:
    assert {"cub", "travelingbirds", "waterbirds"} <= set(list_cards())
    for name in list_cards():
        card = load_card(name)
        assert any(variant.mini for variant in card.variants.values()), name


def test_waterbirds_counts_are_the_published_ones() -> None:
    card = load_card("waterbirds")
    assert card.groups == ["landbird on land", "landbird on water", "waterbird on land", "waterbird on water"]
    for split, counts in card.variants["95"].counts.items():
        assert sum(counts.groups or []) == counts.count, split
    assert card.variants["95"].counts["train"].groups == [3498, 184, 56, 1057]


def test_parse_dataset_uses_the_default_variant() -> None:
    assert parse_dataset("waterbirds") == ("waterbirds", "95")
    assert parse_dataset("waterbirds@100") == ("waterbirds", "100")
    assert parse_dataset("travelingbirds@mini") == ("travelingbirds", "mini")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("waterbird", "did you mean 'waterbirds'"), ("waterbirds@96", "'95'"), ("../cub", "did you mean 'cub'")],
)
def test_unknown_names_get_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(CardError) as caught:
        parse_dataset(name)
    assert hint in str(caught.value)


def test_wrong_field_names_file_field_and_mend(cards: Path) -> None:
    path = edit(cards, ground_truth={"kind": "both", "mask_treshold": 0.5})
    with pytest.raises(CardError) as caught:
        load_card("cub", cards)
    message = str(caught.value)
    assert str(path) in message
    assert "ground_truth.mask_treshold" in message
    assert "did you mean 'mask_threshold'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"default_variant": "nope"}, "default_variant 'nope'"),
        ({"num_classes": "many"}, "num_classes"),
        ({"classes": ["one"]}, "200, but 1 classes"),
        ({"name": "other"}, "name is 'other'"),
        ({"sources": {}}, "needs source"),
        ({"sources": {"cub": {"archive": "a.tgz", "folders": ["../up"]}}}, r"folders\.0.*without '\.\.'"),
        ({"variants": {"../up": {"summary": "s", "layout": "cub", "sources": []}}}, "variants"),
    ],
)
def test_malformed_cards_are_errors(cards: Path, changes: dict[str, object], expected: str) -> None:
    edit(cards, **changes)
    with pytest.raises(CardError, match=expected):
        load_card("cub", cards)


def test_missing_field_is_named(cards: Path) -> None:
    path = cards / "cub" / "card.yaml"
    content = yaml.safe_load(path.read_text())
    del content["licence"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(CardError, match=r"'licence' is missing \(add it\)"):
        load_card("cub", cards)


@pytest.mark.parametrize("text", ["a: [", "", "- 1\n", "a: !!python/object/apply:os.getcwd []"])
def test_files_that_are_no_cards(cards: Path, text: str) -> None:
    (cards / "cub" / "card.yaml").write_text(text)
    with pytest.raises(CardError, match=r"card\.yaml"):
        load_card("cub", cards)


def test_checksums_are_those_of_the_archives_own_pages() -> None:
    sources = load_card("cub").sources
    assert sources["cub"].md5 == "97eceeb196236b17998738112f37df78"
    assert sources["segmentations"].md5 == "4d47ba1228eae64f2fa547c47bc65255"
