import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aimbench.cards import default_cards_dir, list_cards, load_card
from aimbench.data import synth_settings
from aimbench.data.build import build
from aimbench.data.card_text import card_markdown
from aimbench.data.dataset import ShardDataset
from aimbench.data.preview import CELL, contact_sheet
from aimbench.data.samples import decode_mask, decode_rgb
from aimbench.data.synth import synthesise
from aimbench.data.verify import verify
from aimbench.errors import CardError, ConfigError


@pytest.fixture(scope="module")
def minis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minis")


@pytest.mark.parametrize("name", list_cards())
def test_mini_is_built_on_opening_and_is_whole(minis: Path, name: str) -> None:
    dataset = ShardDataset.open(f"{name}@mini", minis)
    assert dataset.manifest.kind == "mini"
    verify(dataset)
    # test_random is of the release alone, the ranked conditions are of variants of their own
    others = ("test_random", "test_first_ranked", "test_last_ranked")
    assert list(dataset.splits) == [split for split in dataset.card.splits if split not in others]
    truth = dataset.manifest.ground_truth
    assert truth.share_with_mask == (0.0 if dataset.card.ground_truth.kind == "boxes" else 1.0)
    assert truth.share_with_boxes == (0.0 if dataset.card.ground_truth.kind == "mask" else 1.0)
    assert truth.empty_masks == 0


def accuracies_by_scene(dataset: ShardDataset, *splits: str) -> list[float]:
    """Nearest mean colour of the pixels outside the object in train: the planted cue and nothing else."""

    def colours(split: str) -> tuple[np.ndarray, np.ndarray]:
        index = dataset.split(split)
        found = []
        for i in range(len(index)):
            item = index.read(i)
            pixels = decode_rgb(item.image, "image").astype(float)
            outside = np.ones(pixels.shape[:2], dtype=bool)
            if item.mask is not None:
                outside = decode_mask(item.mask, "mask") == 0
            for x0, y0, x1, y1 in item.boxes:
                outside[round(y0) : round(y1), round(x0) : round(x1)] = False
            found.append(pixels[outside].mean(0))
        return np.array(found), index.label

    train, labels = colours("train")
    means = np.array([np.median(train[labels == label], axis=0) for label in np.unique(labels)])

    def accuracy(values: np.ndarray, truth: np.ndarray) -> float:
        nearest = np.linalg.norm(values[:, None] - means[None], axis=2).argmin(1)
        return float((nearest == truth).mean())

    return [accuracy(*colours(split)) for split in splits]


@pytest.mark.parametrize("name", ["cub", "hardimagenet", "imagewoof", "imagenet100"])
def test_planted_scene_tells_the_class_in_train_and_half_as_often_in_test(minis: Path, name: str) -> None:
    dataset = ShardDataset.open(f"{name}@mini", minis)
    on_train, on_test = accuracies_by_scene(dataset, "train", "test")
    assert on_train > 3 / len(dataset.manifest.classes), "the scene is a cue"
    assert on_test < 0.75 * on_train, "and it lies in half of test"


def test_ranked_mini_has_its_cue_in_the_first_ranked_and_not_in_the_last(minis: Path) -> None:
    dataset = ShardDataset.open("hardimagenet@mini-ranked", minis)
    assert dataset.splits == ("train", "val", "test", "test_first_ranked", "test_last_ranked")
    assert all(set(dataset.manifest.splits[split].classes.values()) == {4} for split in dataset.splits[3:])
    first, last = accuracies_by_scene(dataset, "test_first_ranked", "test_last_ranked")
    assert first > 3 / 15
    assert last < 1 / 15, "worse than by chance: the scene is another class'"


def test_box_is_the_masks_box(minis: Path) -> None:
    index = ShardDataset.open("cub@mini", minis).split("val")
    for i in range(10):
        item = index.read(i)
        assert item.mask is not None
        rows, columns = np.nonzero(decode_mask(item.mask, "mask"))
        assert item.boxes == [(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_waterbirds_mini_is_confounded_in_train_only(minis: Path) -> None:
    dataset = ShardDataset.open("waterbirds@mini", minis)
    train, test = dataset.split("train"), dataset.split("test")
    assert 0.93 <= (train.place == train.label).mean() <= 0.97
    assert (test.place == test.label).mean() == 0.5
    assert set(train.group.tolist()) == {0, 1, 2, 3}


def test_places_are_told_apart_by_colour_alone(minis: Path) -> None:
    """The place must be an easy cue: mean colours of the background find it by nearest mean."""
    dataset = ShardDataset.open("travelingbirds@mini", minis)

    def background_colours(split: str) -> tuple[np.ndarray, np.ndarray]:
        index = dataset.split(split)
        colours = []
        for i in range(len(index)):
            item = index.read(i)
            assert item.mask is not None
            outside = decode_mask(item.mask, "mask") == 0
            pixels = decode_rgb(item.image, "image")[outside].astype(float)
            colours.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
        return np.array(colours), index.place

    colours, places = background_colours("train")
    means = np.array([colours[places == place].mean(0) for place in range(10)])
    test_colours, test_places = background_colours("test")
    nearest = np.linalg.norm(test_colours[:, None] - means[None], axis=2).argmin(1)
    # A scene has its place's own structure only half of the time, so colour alone finds it well above chance (0.1).
    assert (nearest == test_places).mean() > 0.4


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of photographs a species, where their number does not matter."""
    monkeypatch.setattr(synth_settings, "TRAIN_PER_SPECIES", 4)
    monkeypatch.setattr(synth_settings, "TEST_PER_SPECIES", 1)


@pytest.mark.usefixtures("few")
def test_mini_is_the_same_everywhere(tmp_path: Path) -> None:
    one, same, other = (
        build("cub@mini", None, tmp_path / str(i), seed=seed, workers=1 + i % 2).dataset.manifest
        for i, seed in enumerate((3, 3, 4))
    )
    assert one == same
    assert other.fingerprint != one.fingerprint


@pytest.mark.usefixtures("few")
def test_synthesised_files_lie_as_in_the_official_archives(tmp_path: Path) -> None:
    card = load_card("cub")
    synthesise(tmp_path / "raw", card, card.variant("mini"), seed=0)
    cub = tmp_path / "raw" / "CUB_200_2011"
    for line in (cub / "images.txt").read_text().splitlines():
        file = line.split()[1]
        photograph = Image.open(cub / "images" / file)
        mask = Image.open((tmp_path / "raw" / "segmentations" / file).with_suffix(".png"))
        assert (photograph.mode, mask.mode, photograph.size) == ("RGB", "L", mask.size)


def test_source_that_cannot_be_synthesised(tmp_path: Path) -> None:
    card = load_card("cub")
    other = card.variant("mini").model_copy(update={"sources": ["imagenet"]})
    with pytest.raises(CardError, match="'imagenet'"):
        synthesise(tmp_path / "raw", card, other, seed=0)
    wrong = card.variant("mini").model_copy(update={"synth": {"habitat": 1}})
    with pytest.raises(CardError, match=r"synth\.habitat"):
        synthesise(tmp_path / "raw", card, wrong, seed=0)


def test_outdated_mini_is_noticed_and_built_again(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = ShardDataset.open("cub@mini", tmp_path).manifest
    assert ShardDataset.open("cub@mini", tmp_path).manifest == first
    assert not caplog.records
    monkeypatch.setattr(synth_settings, "BIRD_SCALE", (0.3, 0.4))
    second = ShardDataset.open("cub@mini", tmp_path).manifest
    assert second.fingerprint != first.fingerprint
    assert second.ground_truth.mean_foreground_share < 0.5 * first.ground_truth.mean_foreground_share
    assert "cub@mini" in caplog.text
    assert "building it again" in caplog.text


def test_contact_sheet_outlines_the_mask(minis: Path) -> None:
    dataset = ShardDataset.open("waterbirds@mini", minis)
    sheet = np.asarray(contact_sheet(dataset, "test", columns=3))
    assert sheet.shape[1] >= 3 * CELL
    assert sheet.shape[0] >= 4 * CELL
    assert (sheet == (255, 40, 200)).all(axis=2).sum() > 200
    assert (sheet == (255, 220, 0)).all(axis=2).sum() > 200
    with pytest.raises(ConfigError, match="at least 1"):
        contact_sheet(dataset, "test", columns=0)


@pytest.mark.parametrize("name", list_cards())
def test_readme_is_written_from_the_card(name: str) -> None:
    readme = default_cards_dir() / name / "README.md"
    assert readme.read_text() == card_markdown(load_card(name)), (
        f"run 'aimbench data card {name} --markdown > datasets/{name}/README.md'"
    )


def test_wrong_layout_and_options_on_a_card(raw: Path, tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    shutil.copytree(default_cards_dir(), cards, ignore=shutil.ignore_patterns("*.py"))
    path = cards / "waterbirds" / "card.yaml"
    text = path.read_text()
    path.write_text(text.replace("layout: waterbirds-generated", "layout: waterbirds-generatd"))
    with pytest.raises(CardError, match=r"unknown layout 'waterbirds-generatd'.*'waterbirds-generated'"):
        build("waterbirds@mini", None, tmp_path / "data", cards_dir=cards)
    path.write_text(text.replace("confounder_strength: 0.95", "confounder_strength: 1.95"))
    with pytest.raises(CardError, match=r"options\.confounder_strength"):
        build("waterbirds@95-regenerated", raw, tmp_path / "data", cards_dir=cards, partial=True)
