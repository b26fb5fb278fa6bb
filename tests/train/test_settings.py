"""Settings that a user gets wrong: one line that names the setting and the mend."""

import inspect
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aimbench.cards import default_cards_dir
from aimbench.cli.run import run
from aimbench.errors import ConfigError
from aimbench.results.rerun import rerun_command
from aimbench.results.store import Store
from aimbench.train.config import IN_PLANS_ALONE, TrainConfig, read_config
from aimbench.train.method import Method
from aimbench.train.registry import get_method, method_card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"epoch": 3}}, "unknown training setting 'epoch': did you mean 'epochs'"),
        ({"training": {"epochs": 0}}, "training setting 'epochs': .*greater than or equal to 1 .got 0"),
        ({"training": {"batch_size": 1}}, "training setting 'batch_size': .*greater than or equal to 2 .got 1"),
        ({"training": {"optimizer": "adam"}}, "training setting 'optimizer': .*'adamw' or 'sgd' .got 'adam'"),
        ({"training": {"image_size": 8}}, "training setting 'image_size': .*got 8"),
        ({"training": {"augment_on": "device"}}, "augment_on 'device' needs --augment and --loader indexed"),
        ({"epg_samples": -1}, "--epg-samples -1: give 0 or more"),
        ({"attributions": ("attention_rollout",)}, "attention_rollout is not defined for backbone"),
        ({"method": "aimm"}, "unknown method 'aimm': did you mean 'aim'"),
        ({"method": "aim", "settings": {"active_are": 0.2}}, "no setting 'active_are': did you mean 'active_area'"),
        ({"settings": {"batch_size": 8}}, "no setting 'batch_size': it is one of the training, --batch-size on the"),
        ({"settings": {"grad_clip": 1}}, "no setting 'grad_clip': it is one of the training, 'grad_clip' under 'train"),
        ({"method": "aim", "settings": {"active_area": 2}}, "method 'aim': setting 'active_area': .*got 2"),
        ({"method": "aim", "settings": {"final_temperature": math.inf}}, "setting 'final_temperature': .*finite"),
        ({"method": "aim", "settings": {"initial_logit": math.nan}}, "setting 'initial_logit': .*finite"),
        ({"method": "aim", "preset": "2-26"}, "no preset '2-26': did you mean '2-25'"),
        ({"backbone": "convnext_atom"}, "unknown backbone 'convnext_atom': did you mean 'convnext_atto"),
        ({"dataset": "waterbird@mini"}, "unknown dataset 'waterbird'; did you mean 'waterbirds'"),
        ({"dataset": "waterbirds@min"}, "mini"),
        ({"selector": "val_acuracy"}, "unknown selector 'val_acuracy': did you mean .*'val_accuracy'"),
        ({"selector": "oracle_test_worst_group_accuracy"}, "reads the test set and can never be a headline"),
    ],
)
def test_a_wrong_word_is_named(experiment: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        experiment(**changes)
    assert type(caught.value).__name__ in {"ConfigError", "CardError"}
    assert "\n" not in str(caught.value)


def test_settings_of_the_training_have_options_but_those_of_plans_alone() -> None:
    options = inspect.signature(run).parameters
    assert {name for name in TrainConfig.model_fields if name not in options} == IN_PLANS_ALONE


def test_a_method_without_settings_says_how_they_are_named() -> None:
    class Bare(Method):
        name = "bare"

    with pytest.raises(ConfigError, match=r"no setting 'weight': it has none .*'Config = \.\.\.'"):
        Bare.configure({"weight": 3})


def test_a_setting_that_came_later_changes_no_id_until_it_is_used(experiment: Callable[..., Any]) -> None:
    before = experiment(training={"augment": True}).definition
    assert "augment_on" not in before.training
    after = experiment(training={"augment": True, "augment_on": "device", "epochs": 1})
    assert after.definition.training["augment_on"] == "device"
    assert after.id != before.id
    assert after.run().record.training["augment_on"] == "device"


def test_a_methods_setting_that_came_later_is_left_out_at_its_earlier_value(experiment: Callable[..., Any]) -> None:
    card = method_card("aim")
    assert card is not None
    assert card.later["smooth_start"] == "random"
    now, before = (experiment("aim", settings={"smooth_start": start}) for start in ("identity", "random"))
    assert now.definition.method.config["smooth_start"] == "identity"
    assert "smooth_start" not in before.definition.method.config
    assert now.id != before.id


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"smooth_start": "identity", "active_area": 0.5, "anneal": False}, {}),
        ({"smooth_start": "random", "final_temperature": None}, {"epg_region": "boxes", "epg_samples": None}),
        ({}, {"training": {"train": "all", "augment": True, "augment_on": "device", "epochs": 1}}),
        ({}, {"attributions": ("gradcam", "smoothgrad"), "epg_samples": 0}),
    ],
)
def test_the_command_of_a_record_has_its_definition(
    settings: dict[str, Any],
    changes: dict[str, Any],
    experiment: Callable[..., Any],
    mini_root: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    trial = experiment("aim", settings=settings, **{"training": {"epochs": 1}, **changes})
    result = trial.run()
    store = Store(tmp_path / "results")
    store.write_run(result.record, result.files)
    again = rerun_command(result.record, method_card("aim"))
    assert again is not None
    program, *words = shlex.split(again)
    assert program == "aimbench"
    roots = ["--data", str(mini_root), "--runs", str(tmp_path / "other"), "--results", str(store.root)]
    status, _, error = command(*words, *roots)
    assert status == 0
    assert f"{trial.id} is recorded already" in error


def test_what_a_method_without_defaults_of_its_own_is_trained_with() -> None:
    """Cards call it the harness's own optimiser and schedule; commands in texts and plans leave it out."""
    config = read_config({})
    assert (config.optimizer, config.schedule, config.train) == ("adamw", "cosine", "head")
    assert (config.epochs, config.batch_size, config.warmup_epochs) == (20, 64, 0.0)
    assert (config.lr, config.backbone_lr, config.weight_decay) == (1e-3, 1e-4, 1e-4)


def test_what_the_user_gives_wins_over_a_preset() -> None:
    config = get_method("aim").configure({"active_area": 0.5}, preset="1-25-flat")
    assert (config.stop_stage, config.active_area, config.anneal) == (1, 0.5, False)  # type: ignore[attr-defined]


def test_what_the_user_gives_wins_over_the_methods_defaults(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_method("erm"), "training_defaults", {"lr": 0.5, "batch_size": 7})
    config = experiment("erm").config
    assert (config.lr, config.batch_size) == (0.5, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"training": {"lr": 0.2}},
        {"method": "aim"},
        {"backbone": "test_resnet.r160_in1k"},
        {"dataset": "travelingbirds@mini"},
        {"selector": "last"},
        {"epg_samples": 9},
        {"settings": {"standardize": False}},
    ],
)
def test_whatever_decides_the_outcome_is_in_the_id(experiment: Callable[..., Any], change: dict[str, Any]) -> None:
    assert experiment().id == experiment().id
    assert experiment(**change).id != experiment().id


def test_how_a_card_augments_is_in_the_id_of_runs_that_augment(experiment: Callable[..., Any], tmp_path: Path) -> None:
    card = tmp_path / "cards" / "waterbirds" / "card.yaml"
    card.parent.mkdir(parents=True)
    text = (default_cards_dir() / "waterbirds" / "card.yaml").read_text()
    changed = text.replace("train_crop_scale: [0.7, 1.0]", "train_crop_scale: [0.1, 1.0]")
    assert changed != text
    card.write_text(changed)
    for augment in (False, True):
        ours, theirs = (experiment(training={"augment": augment}, cards=cards) for cards in (None, tmp_path / "cards"))
        assert (ours.id == theirs.id) is not augment


def test_what_does_not_decide_the_outcome_is_not_in_the_id(experiment: Callable[..., Any]) -> None:
    assert experiment(workers=1, cache_gb=0.0).id == experiment().id


def test_a_selector_that_reads_groups_is_in_the_records_regime(experiment: Callable[..., Any]) -> None:
    assert experiment().definition.method.regime["select"] == "class"
    assert experiment(selector="val_worst_group_accuracy").definition.method.regime["select"] == "val_groups"


def test_presets_are_valid_settings() -> None:
    aim = get_method("aim")
    assert aim.presets
    for name in aim.presets:
        aim.configure({}, preset=name)
    with pytest.raises(ConfigError):
        aim.configure({}, preset="none of these")


def test_evaluation_and_photographs_are_never_augmented(experiment: Callable[..., Any]) -> None:
    data = experiment("aim", training={"augment": True, "train": "all"}).trainer().data
    plain = experiment("aim", training={"train": "all"}).trainer().data
    positions = np.arange(6)
    for name in ("evaluation", "photographs"):

        def image(of: Any, seed: int, name: str = name) -> torch.Tensor:
            source = of.evaluation("val") if name == "evaluation" else of.photographs("val", 6, region=False)
            (batch,) = source.epoch(positions, seed=seed)
            return batch.image

        assert torch.equal(image(data, 0), image(data, 1)), name
        assert torch.equal(image(data, 0), image(plain, 0)), name
    (one,), (other,) = (data.training(augment=True).epoch(positions, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.image, other.image)  # so that the test could fail


@pytest.mark.parametrize("field", ["lr", "weight_decay", "warmup_epochs"])
def test_a_setting_that_is_no_number_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        read_config({field: math.inf})
