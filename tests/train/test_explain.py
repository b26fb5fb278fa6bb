import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aimbench.errors import ConfigError
from aimbench.train.explain import (
    Explained,
    caption,
    choose_positions,
    draw_run,
    epg_words,
    explain_samples,
    extreme_positions,
)
from aimbench.train.opened import open_run
from aimbench.train.side_by_side import _file_names, draw_compared, draw_runs

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def trained(experiment: Callable[..., Any], method: str, **changes: Any) -> Any:
    trial = experiment(method, training={"epochs": 1}, **changes)
    trial.trainer().fit()
    return trial


@pytest.mark.parametrize("method", ["erm", pytest.param("aim", marks=SLOW), pytest.param("oracle_mask", marks=SLOW)])
def test_a_run_and_a_photograph_are_drawn(
    method: str, experiment: Callable[..., Any], mini_root: Path, tmp_path: Path, photograph: Path
) -> None:
    trial = trained(experiment, method)
    options: dict[str, Any] = {"data_root": mini_root, "runs_root": tmp_path / "runs", "cards": None}
    options |= {"split": "test", "per_group": 1, "max_groups": 2}
    for images in ([], [photograph]):
        out = tmp_path / f"{len(images)}.png"
        draw_run(trial.id, images=images, out=out, **options)
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            assert picture.width > picture.height / 3


def test_maps_lie_between_0_and_1_at_the_images_size(
    experiment: Callable[..., Any], mini_root: Path, tmp_path: Path
) -> None:
    trial = trained(experiment, "aim")
    opened, trainer = open_run(trial.id[:10], data_root=mini_root, runs_root=tmp_path / "runs")
    assert opened.id == trial.id
    (row,) = explain_samples(opened, trainer, "test", [3])
    index = opened.dataset.split("test")
    assert row.title.splitlines()[1] == index.keys[3][:26]
    assert row.image.shape == (64, 64, 3)
    assert set(row.maps) == {"gradcam", "input_x_gradient", "mask"} == set(row.epg)
    for values in row.maps.values():
        assert values.shape == (64, 64)
        assert 0 <= values.min() <= values.max() <= 1
    assert row.region is not None
    assert set(np.unique(row.region)) == {0, 1}


def test_epg_of_a_picture_is_by_what_the_run_is_scored_by(
    experiment: Callable[..., Any], mini_root: Path, tmp_path: Path
) -> None:
    region = {}
    for by in ("mask", "boxes"):
        trial = trained(experiment, "erm", epg_region=by)
        opened, trainer = open_run(trial.id, data_root=mini_root, runs_root=tmp_path / "runs")
        (row,) = explain_samples(opened, trainer, "test", [3])
        assert row.region is not None
        region[by] = np.asarray(row.region) > 0
    y, x = np.nonzero(region["boxes"])
    assert region["boxes"][y.min() : y.max() + 1, x.min() : x.max() + 1].all()  # one box, filled
    assert not region["mask"][y.min() : y.max() + 1, x.min() : x.max() + 1].all()


def test_runs_are_compared_on_the_same_photographs(
    experiment: Callable[..., Any], mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "aimbench.train.side_by_side.draw_compared", lambda compared, out: drawn.append(compared) or out
    )
    erm, aim = trained(experiment, "erm"), trained(experiment, "aim")
    options: dict[str, Any] = {"data_root": mini_root, "runs_root": tmp_path / "runs", "cards": None, "split": "test"}
    paths = draw_runs([erm.id, aim.id], per_group=2, max_groups=2, out=tmp_path / "cmp.png", **options)
    assert len(paths) == len(drawn) == 2
    assert len({path.name for path in paths}) == 2
    assert all(path.name.startswith("cmp-") for path in paths)
    for compared in drawn:
        assert list(compared) == ["erm", "aim"]
        assert [row.title for row in compared["erm"]] == [row.title for row in compared["aim"]]
        assert len({row.title.splitlines()[0] for row in compared["erm"]}) == 1, "one group a picture"
        assert "mask" in compared["aim"][0].maps
        assert "mask" not in compared["erm"][0].maps
    monkeypatch.undo()
    with Image.open(draw_compared(drawn[0], tmp_path / "one.png")) as picture:
        assert picture.width > picture.height  # photograph, ERM's GradCAM, AIM's mask and GradCAM; two rows
    other = trained(experiment, "erm", dataset="travelingbirds@mini")
    with pytest.raises(ConfigError, match="need the same photographs"):
        draw_runs([erm.id, other.id], per_group=1, max_groups=1, out=tmp_path / "x.png", **options)


def test_positions_are_of_each_group_and_always_the_same() -> None:
    group = np.array([2, 0, 0, 2, 0, 5, 0])
    chosen = choose_positions(group, per_group=2, max_groups=3)
    assert chosen == choose_positions(group, per_group=2, max_groups=3)
    assert [int(group[i]) for i in chosen] == [0, 0, 2, 2, 5]
    assert [int(group[i]) for i in choose_positions(group, per_group=1, max_groups=2)] == [0, 2]
    alone = np.where(group == 2, 2, 9)  # what is drawn of a group does not hang on the others
    assert choose_positions(alone, per_group=1, max_groups=1) == choose_positions(group, per_group=1, max_groups=2)[1:]


def test_best_and_worst_of_each_group_by_epg() -> None:
    group = np.array([0, 0, 0, 0, 1, 1, 0, 2])
    epg = np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.3, np.nan, np.nan])
    assert extreme_positions(group, epg, per_group=1, max_groups=5) == [1, 0, 5, 4]
    assert extreme_positions(group, epg, per_group=3, max_groups=1) == [1, 3, 2, 0]  # no sample twice
    assert extreme_positions(group, epg, per_group=1, max_groups=1) == [1, 0]


def test_errors_name_what_is_missing(
    experiment: Callable[..., Any], mini_root: Path, tmp_path: Path, photograph: Path
) -> None:
    one, other = trained(experiment, "erm"), trained(experiment, "erm", seed=1)
    roots: dict[str, Path] = {"data_root": mini_root, "runs_root": tmp_path / "runs"}
    with pytest.raises(ConfigError, match=r"no run 'erm-zzz' under .*runs"):
        open_run("erm-zzz", **roots)
    with pytest.raises(ConfigError, match="2 runs start with 'erm'") as caught:
        open_run("erm", **roots)
    assert one.id in str(caught.value)
    assert other.id in str(caught.value)
    with pytest.raises(ConfigError, match="no run"):
        open_run("../" + one.id, **roots)
    options: dict[str, Any] = {"cards": None, "split": "test", "per_group": 1, "max_groups": 1, "out": tmp_path / "o"}
    with pytest.raises(ConfigError, match=r"absent\.jpg does not exist"):
        draw_run(one.id, images=[tmp_path / "absent.jpg"], **roots, **options)
    with pytest.raises(ConfigError, match="has no EPG of any sample of 'test'"):
        draw_run(one.id, images=[], epg=np.full(len(one.dataset.split("test")), np.nan), **roots, **options)
    text = tmp_path / "text.jpg"
    text.write_text("not a photograph")
    with pytest.raises(Exception, match=r"text\.jpg"):
        draw_run(one.id, images=[text], **roots, **options)


def test_the_caption_names_what_a_picture_has() -> None:
    image = np.zeros((8, 8, 3), np.float32)
    plain = Explained("a", "a", image, None, {}, {}, None)
    assert caption([plain]) == ""
    mapped = {"mask": image[..., 0], "gradcam": image[..., 0]}
    assert caption([Explained("a", "a", image, None, mapped, {}, None)]) == "maps: of the predicted class"
    assert caption([Explained("a", "a", image, None, mapped, {}, correct=True)]) == "maps: of the true class"
    classless = {"mask": image[..., 0], "attention_rollout": image[..., 0]}
    assert caption([Explained("a", "a", image, None, classless, {}, correct=True)]) == ""
    wrong = Explained("a", "b", image, image[..., 0], {}, {"mask": 0.5, "gradcam": math.nan}, correct=False)
    assert epg_words(wrong, "mask") == "  EPG 0.50"
    assert epg_words(wrong, "gradcam") == "  no positive part"
    words = caption([plain, wrong])
    assert "red: predicted wrongly" in words
    assert "yellow: outline of the ground truth" in words
    assert "EPG: share" in words


def test_every_group_has_a_picture_of_its_own() -> None:
    assert _file_names(["Land bird", "Water bird"]) == ["land-bird", "water-bird"]
    assert _file_names(["C+", "C-", "猫", "犬", "D"]) == ["c-0", "c-1", "2", "3", "d"]
