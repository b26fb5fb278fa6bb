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


def test_cards_of_all_six_are_valid_and_tell_their_mini() -> None:
    assert list_cards() == ["cub", "hardimagenet", "imagenet100", "imagewoof", "travelingbirds", "waterbirds"]
    for name in list_cards():
        card = load_card(name)
        assert "Planted cue" in card.variants["mini"].summary, name
        assert card.citation.startswith("@"), name
        assert card.known_defects, name
        for variant, entry in card.variants.items():
            assert entry.mini or entry.counts, f"{name}@{variant} states no official count"
            assert entry.fingerprint is None, "no official build has been made yet: a pinned fingerprint is invented"


def test_published_counts_of_imagewoof_and_imagenet100() -> None:
    woof = load_card("imagewoof").variants["full"].counts
    assert (woof["train+val"].count, woof["test"].count) == (9025, 3929)
    assert [sum(counts.classes or []) for counts in woof.values()] == [9025, 3929]
    hundred = load_card("imagenet100").variants
    assert hundred["cmc"].counts["train+val"].count == 126_689
    lists = [set(hundred[name].options["class_folders"]) for name in ("cmc", "kaggle")]
    assert [len(wnids) for wnids in lists] == [100, 100]
    assert len(lists[0] & lists[1]) == 8


def test_further_cards_go_before_ours(cards: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "mine").mkdir(parents=True)
    text = (cards / "cub" / "card.yaml").read_text()
    (tmp_path / "more" / "mine" / "card.yaml").write_text(text.replace("name: cub", "name: mine", 1))
    assert "mine" in list_cards(tmp_path / "more")
    assert load_card("mine", tmp_path / "more").num_classes == 200
    assert load_card("waterbirds", tmp_path / "more").name == "waterbirds"
    with pytest.raises(CardError, match="does not exist"):
        load_card("mine", tmp_path / "nowhere")


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
        ({"sources": {"cub": {"archive": "a.tgz", "folders": ["../up"]}}}, r"folders\.1.*without '\.\.'"),
        ({"sources": {"cub": {"archive": "a.tgz", "folders": ["a"], "urls": ["file:///etc/passwd"]}}}, "https://"),
        ({"sources": {"cub": {"archive": "a.tgz", "folders": ["a"], "hub": "../x/y"}}}, "hub"),
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
    imagenet = {name: load_card(name).sources["imagenet"].parts for name in ("imagenet100", "hardimagenet")}
    assert imagenet["imagenet100"] == imagenet["hardimagenet"]
    assert [(part.nested, part.md5) for part in imagenet["imagenet100"].values()] == [
        (True, "1d675b47d978889d74fa0da5fadfb00e"),
        (False, "29b22e2961454d5413ddabcf34fc5622"),
    ]


def test_the_environment_names_a_folder_of_further_cards(monkeypatch):
    assert "streetbirds" not in list_cards()
    monkeypatch.setenv("AIMBENCH_CARDS", str(Path(__file__).parents[1] / "docs" / "cards"))
    assert {"streetbirds", "cub"} <= set(list_cards())
    assert load_card("streetbirds").name == "streetbirds"


def test_the_folder_of_one_card_is_told_from_a_folder_of_cards():
    with pytest.raises(CardError, match="name the folder above it"):
        list_cards(Path(__file__).parents[1] / "docs" / "cards" / "streetbirds")
