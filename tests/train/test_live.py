"""Live views: what TensorBoard reads back is what the record says; off by default."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimbench.errors import ConfigError
from aimbench.train.live import WandbLogger, make_loggers


def test_tensorboard_reads_back_the_epochs_of_the_record(experiment: Callable[..., Any]) -> None:
    pytest.importorskip("tensorboard", reason="the extra aimbench[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = experiment()
    assert experiment(log="tensorboard").id == plain.id, "a view is no part of the definition"
    logged = experiment(log="tensorboard", epg_samples=0)
    record = logged.run().record
    events = EventAccumulator(str(logged.folder / "tensorboard"))
    events.Reload()
    loss = events.Scalars("train/loss")
    assert [event.step for event in loss] == [1, 2]
    assert [event.value for event in loss] == pytest.approx([phase["loss"] for phase in record.phases])
    selected = record.selected["epoch"]
    # The selected epoch's validation metrics stand in the record, computed anew at the run's end.
    accuracy = events.Scalars("val/accuracy")[selected].value
    assert accuracy == pytest.approx(record.metrics["val"].accuracy.value)


def test_weights_and_biases_gets_each_step_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda exit_code: calls.append(exit_code)
    )
    begun: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **words: begun.update(words) or run))
    logger = WandbLogger(tmp_path, "erm-1")
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.finalize("failed")
    assert (begun["id"], begun["resume"]) == ("erm-1", "allow")
    assert calls == [(1, {"train/loss": 0.5}), 1]


def test_a_view_that_is_off_unknown_or_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_loggers(None, tmp_path, "x") == []
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        make_loggers("tensorbord", tmp_path, "x")
    monkeypatch.setattr("aimbench.train.live.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'aimbench\[wandb\]'"):
        make_loggers("wandb", tmp_path, "x")


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
    ],
)
def test_only_the_first_of_several_processes_has_a_view(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    class Asked(Exception):
        pass

    def ask(view: str | None, *_: object) -> None:
        raise Asked(view)

    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("aimbench.train.experiment.make_loggers", ask)

    class Begun(Exception):
        pass

    def begin(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr("aimbench.train.experiment.start", begin)
    with pytest.raises(Asked if first else Begun):
        experiment(log="wandb").run()
