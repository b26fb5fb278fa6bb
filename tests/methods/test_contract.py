"""What every registered method must keep, whatever it does."""

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aimbench.data.batch import Batch
from aimbench.results.store import Store
from aimbench.results.validate import check_record
from aimbench.train.loop import Trainer
from aimbench.train.registry import get_method, list_methods, method_card
from aimbench.train.steps import Steps

METHODS = [entry.name for entry in list_methods()]
TRAINED = ["head", pytest.param("all", marks=pytest.mark.slow)]
QUICK: dict[str, dict[str, Any]] = {"jtt": {"upweight": 2}}
"""Settings that keep a run short; a method without any runs as it stands."""
OWN_HEAD = re.compile(r"(^|\.)pyramid\.network\.head\.")
"""A network's own norm before its classifier: heads that pool the maps themselves leave it out."""


@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("method", METHODS)
def test_two_epochs_give_a_valid_record(
    method: str, train: str, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    trial = experiment(method, settings=QUICK.get(method, {}), training={"train": train})
    started = time.process_time()  # of the processor, so that a busy machine does not count
    result = trial.run()
    assert time.process_time() - started < 60
    store = Store(tmp_path / "results")
    path = store.write_run(result.record, result.files)
    assert check_record(store, path) == []
    record = store.read(path)
    assert record.id == trial.id == record.definition.id
    assert record.method.regime["train"] == get_method(method).regime.train
    assert set(record.metrics) == {"val", "test"}
    assert {"gradcam", "input_x_gradient", "uniform"} <= set(record.metrics["test"].epg)
    assert record.cost.trainable_parameters > 0
    assert [(entry["phase"], entry["epoch"]) for entry in record.phases]


@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything(method: str, train: str, experiment: Callable[..., Any], tmp_path: Path) -> None:
    one, again = (
        experiment(
            method,
            runs_root=tmp_path / name,
            settings=QUICK.get(method, {}),
            training={"train": train, "augment": train == "all"},
        ).run()
        for name in ("one", "again")
    )
    assert one.files["epochs"] == again.files["epochs"]
    assert one.files["predictions"] == again.files["predictions"]
    assert one.record.metrics == again.record.metrics


@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision_trains(method: str, train: str, experiment: Callable[..., Any]) -> None:
    training = {"train": train, "precision": "bf16-mixed", "epochs": 1}
    record = experiment(method, settings=QUICK.get(method, {}), training=training).run().record
    losses = [entry["loss"] for entry in record.phases if "loss" in entry]
    assert losses or method.startswith("dfr")  # which fits its head by sklearn
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("method", METHODS)
def test_settings_that_came_later_are_settings(method: str) -> None:
    card = method_card(method)
    assert card is None or get_method(method).configure(card.later)


class _KilledError(BaseException):
    """Stands for the kill; no handler of the engine catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("train", ["head", "all"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_in_every_phase_equals_an_unbroken_one(
    method: str, train: str, experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(folder: str) -> Any:
        settings, training = QUICK.get(method, {}), {"train": train, "epochs": 3 if train == "head" else 2}
        return experiment(method, runs_root=tmp_path / folder, settings=settings, training=training)

    whole = trial("whole").run()
    phases = list(dict.fromkeys(entry["phase"] for entry in whole.record.phases))
    end_epoch = Trainer._end_epoch
    for doomed in phases:

        def die(trainer: Trainer, optimizer: Any, phase: Any, number: int, epoch: int, epochs: int, *rest: Any) -> None:
            if phase.name == doomed and epoch == epochs - 1:  # noqa: B023
                raise _KilledError
            end_epoch(trainer, optimizer, phase, number, epoch, epochs, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_end_epoch", die)
            with pytest.raises(_KilledError):
                trial("killed").run()
    resumed = trial("killed").run()
    assert resumed.record.metrics == whole.record.metrics
    assert resumed.record.phases == whole.record.phases
    assert resumed.record.selected == whole.record.selected
    assert resumed.files["epochs"] == whole.files["epochs"]
    assert resumed.files["predictions"] == whole.files["predictions"]


@pytest.mark.parametrize("train", ["head", "all"])
@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_gets_a_gradient(
    method: str, train: str, experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = experiment(method, settings=QUICK.get(method, {}), training={"train": train, "epochs": 1})
    without: set[str] = set()
    steps = 0
    step = Steps.step

    def noting(taking: Steps, *args: Any) -> Any:
        nonlocal without, steps
        values = step(taking, *args)
        trained = [(n, p) for n, p in taking.classifier.named_parameters() if p.requires_grad]
        missing = {n for n, p in trained if p.grad is None and not OWN_HEAD.search(n)}
        without = missing if steps == 0 else without & missing
        steps += 1
        return values

    monkeypatch.setattr(Steps, "step", noting)
    trial.trainer().fit()
    assert steps
    assert without == set(), "no loss reaches these parameters"


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_reads_only_what_the_regime_declares(
    method: str, experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine hands out what the regime opens; the loss must ask for nothing else."""
    asked: set[str] = set()
    for name in ("group", "mask"):
        original = getattr(Batch, name).fget

        def reading(batch: Batch, name: str = name, original: Any = original) -> Any:
            asked.add(name)
            return original(batch)

        monkeypatch.setattr(Batch, name, property(reading))
    trial = experiment(method, settings=QUICK.get(method, {}), training={"epochs": 1}, epg_samples=0)
    trial.trainer().fit()
    assert asked <= get_method(method).regime.fields


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_documented_and_their_defaults_valid(method: str) -> None:
    cls = get_method(method)
    config = cls.configure({})
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    undocumented = [name for name, field in cls.Config.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize("method", METHODS)
def test_the_own_map_lies_between_0_and_1(method: str, experiment: Callable[..., Any]) -> None:
    trainer = experiment(method).trainer()
    batch = next(iter(trainer.data.photographs("val", 4, region=True).epoch(torch.arange(4).numpy(), seed=0)))
    trainer.model.eval()
    with torch.no_grad():
        output = trainer.model.predict(trainer.model.features(batch.image), batch.mask)
    own = trainer.method.explain(output)
    assert output.logits.shape == (4, len(trainer.data.dataset.manifest.classes))
    if own is not None:
        assert own.dim() == 3
        assert len(own) == 4
        assert 0 <= float(own.min()) <= float(own.max()) <= 1
