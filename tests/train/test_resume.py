"""A killed run goes on as if it had never stopped: the same numbers, bit for bit."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from aimbench.errors import ConfigError
from aimbench.train import checkpoint
from aimbench.train.processes import BFloat16Mixed
from aimbench.train.steps import Steps

TINY = "test_convnext.r160_in1k"
SCRIPT = Path(__file__).with_name("killed_run.py")
DEAD = 9
FACTS = ("cost", "created", "files", "environment", "code")  # of a session, not of the run's outcome

SOURCES = {
    "cached features": ["--workers", "0"],
    "augmented images": ["--train", "all", "--augment", "--workers", "1"],
}
# Epochs have 6 steps of 32 samples; a resumed process counts from its own start.
KILLS = {
    "erm": [("step", 11), ("checkpoint", 1), ("step", 5)],
    "aim": [("checkpoint", 2), ("step", 3), ("checkpoint", 2)],
    "two_phases": [("step", 14), ("phase", 1), ("checkpoint", 1), ("step", 13)],
}
NOISE = {"aim": ["--set", "noise_until=1.0"]}
"""Masks are drawn after every kill, so that the generators must go on as well."""


def run(where: str, count: int, method: str, words: list[str], mini_root: Path, folder: Path) -> int:
    """Runs the script and returns its exit status."""
    command = [
        *(sys.executable, str(SCRIPT), where, str(count), "run", "--method", method, "--dataset", "waterbirds@mini"),
        *("--backbone", TINY, "--weights", "none", "--image-size", "64", "--epochs", "3", "--batch-size", "32"),
        *("--epg-samples", "8", "--device", "cpu", "--data", str(mini_root)),
        *("--runs", str(folder / "runs"), "--results", str(folder / "results"), *words),
    ]
    # A loader's worker outlives its dead parent for some seconds and would hold a pipe open: write to a file.
    with (folder / "log.txt").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False, timeout=300).returncode


def outcome(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """Everything that a run leaves: record, per-epoch and final predictions, selected and last weights."""
    (record_file,) = (folder / "results").rglob("*.json")
    record = {k: v for k, v in json.loads(record_file.read_text()).items() if k not in FACTS}
    tables = [pd.read_parquet(record_file.with_suffix(f".{name}.parquet")) for name in ("epochs", "predictions")]
    (last,) = (folder / "runs").rglob("last.pt")
    return record, *tables, checkpoint.load(last.with_name("selected.pt")), checkpoint.load(last)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("method", KILLS)
def test_a_run_killed_again_and_again_equals_an_unbroken_one(
    method: str, source: str, mini_root: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    words = [*SOURCES[source], *NOISE.get(method, [])]
    assert run("never", 0, method, words, mini_root, whole) == 0, (whole / "log.txt").read_text()
    for where, count in KILLS[method]:
        assert run(where, count, method, words, mini_root, killed) == DEAD, (killed / "log.txt").read_text()
        assert not list((killed / "results").rglob("*.json"))
    assert run("never", 0, method, words, mini_root, killed) == 0, (killed / "log.txt").read_text()

    record, epochs, predictions, selected, last = outcome(whole)
    again = outcome(killed)
    assert again[0] == record
    pd.testing.assert_frame_equal(again[1], epochs, check_exact=True)
    pd.testing.assert_frame_equal(again[2], predictions, check_exact=True)
    assert (again[3]["phase"], again[3]["epoch"]) == (selected["phase"], selected["epoch"])
    for weights, others in ((again[3]["model"], selected["model"]), (again[4]["model"], last["model"])):
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


class _KilledError(BaseException):
    """Stands for the kill; no handler of the engine catches it."""


def killed_in_the_second_epoch(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs it until its eleventh step."""
    step, calls = Steps.step, 0

    def die_at_the_eleventh(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise _KilledError
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "step", die_at_the_eleventh)
        with pytest.raises(_KilledError):
            trial.run()


@pytest.mark.parametrize("method", ["erm", "aim"])
def test_resuming_within_a_process(
    method: str, experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = experiment(method, runs_root=tmp_path / "whole").run()
    killed = experiment(method, runs_root=tmp_path / "killed")
    killed_in_the_second_epoch(killed, monkeypatch)
    resumed = experiment(method, runs_root=tmp_path / "killed")
    assert resumed.is_started
    state = checkpoint.load(resumed.folder / "last.pt")
    state["clock"]["wall"] = 1000.0  # as if the session before had been long
    checkpoint.save(resumed.folder / "last.pt", state)
    result = resumed.run()
    assert 1000 < result.record.cost.wall_seconds < 2000
    assert result.record.metrics == expected.record.metrics
    assert result.record.phases == expected.record.phases
    assert result.files["epochs"] == expected.files["epochs"]


def test_the_scaler_of_half_precision_goes_on(experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # A CPU has no half precision to scale, so bfloat16 lends its place to a scaler of one number.
    scale = {"scale": 1024.0}
    monkeypatch.setattr(BFloat16Mixed, "state_dict", lambda self: dict(scale))
    monkeypatch.setattr(BFloat16Mixed, "load_state_dict", lambda self, state: scale.update(state))
    killed_in_the_second_epoch(experiment("erm", training={"precision": "bf16-mixed"}), monkeypatch)
    scale["scale"] = 65536.0  # as a new session starts
    experiment("erm", training={"precision": "bf16-mixed"}).run()
    assert scale["scale"] == 1024.0


def test_half_precision_on_a_cpu_is_refused(experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        experiment("erm", training={"precision": "16-mixed"}).trainer()


def test_a_stopped_rerun_goes_on_and_the_next_starts_over(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls, last = Steps.step, 0, 10**6

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > last:
            raise _KilledError
        return step(*args, **kwargs)

    monkeypatch.setattr(Steps, "step", counted)

    def rerun() -> tuple[int, Any]:
        """Returns the steps that were taken, and the result unless it was killed."""
        nonlocal calls
        calls, trial = 0, experiment("erm")
        try:
            result = trial.run(rerun=True)
        except _KilledError:
            return calls, None
        trial.end_rerun()
        return calls, result

    experiment("erm").run()
    whole = calls
    assert rerun()[0] == whole  # a finished run is no start
    last = whole - 2
    assert rerun() == (last + 1, None)
    last = 10**6
    steps, resumed = rerun()
    assert 0 < steps < whole
    again, result = rerun()
    assert again == whole
    assert resumed.record.metrics == result.record.metrics
    assert resumed.files == result.files


def test_runs_of_two_seeds_differ(experiment: Callable[..., Any], tmp_path: Path) -> None:
    one, other = (experiment("erm", seed=seed, training={"epochs": 1}).run() for seed in (0, 1))
    assert one.files["epochs"] != other.files["epochs"]
    assert one.record.id != other.record.id


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(b""), r"epoch .*00-00001\.parquet can't be read"),
        (lambda path: path.unlink(), "lacks epoch 2 of phase 'train'"),
    ],
)
def test_a_run_whose_epochs_are_harmed_does_not_go_on(
    harm: Callable[[Path], None], said: str, experiment: Callable[..., Any]
) -> None:
    trial = experiment("erm", training={"epochs": 3})
    trial.trainer().fit()
    harm(trial.folder / "epochs" / "00-00001.parquet")
    with pytest.raises(ConfigError, match=f"{said}.*; remove {trial.folder}, or give --fresh"):
        trial.trainer().fit()


def test_an_epoch_without_its_checkpoint_is_written_anew(experiment: Callable[..., Any]) -> None:
    trial = experiment("erm", training={"epochs": 2})
    trial.trainer().fit()
    last = trial.trainer().last_file
    state = checkpoint.load(last)
    file = trial.folder / "epochs" / "00-00001.parquet"
    whole = pd.read_parquet(file)
    # As if the process had died between an epoch's predictions and its checkpoint, with other predictions or cut ones.
    checkpoint.save(last, {**state, "epoch": 0, "clock": {**state["clock"], "log": state["clock"]["log"][:1]}})
    whole.assign(prediction=1 - whole["prediction"]).to_parquet(file)
    trainer = trial.trainer()
    trainer.fit()
    stored = trainer.epochs.predictions("train", 1)["test"].prediction
    written = pd.read_parquet(file)
    assert (stored == written[written["split"] == "test"]["prediction"]).all()
    checkpoint.save(last, {**state, "epoch": 0, "clock": {**state["clock"], "log": state["clock"]["log"][:1]}})
    file.write_bytes(b"")
    trial.trainer().fit()
    assert len(pd.read_parquet(file)) == len(whole)


def test_the_chosen_checkpoint_of_another_run_is_refused(experiment: Callable[..., Any]) -> None:
    trial = experiment("erm", training={"epochs": 2})
    trial.trainer().fit()
    chosen = trial.folder / "selected.pt"
    checkpoint.save(chosen, {**checkpoint.load(chosen), "run": "erm-000000000000"})
    with pytest.raises(ConfigError, match="is that of run erm-000000000000"):
        trial.trainer().fit()
