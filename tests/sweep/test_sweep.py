"""Sweeps on a mini: the protocol, continuing, failures, several processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.record import Record
from aimbench.results.store import Store
from aimbench.sweep.worker import Board, run_jobs

TINY = "test_convnext.r160_in1k"


def write_plan(folder: Path, **changes: Any) -> Path:
    plan = {
        "name": "tiny",
        "methods": [{"method": "erm"}],
        "datasets": ["waterbirds@mini"],
        "backbones": [TINY],
        "weights": "none",
        "seeds": [0, 1],
        "training": {"epochs": 1, "batch_size": 32, "image_size": 64, "lr": [1e-3, 1e-5]},
        "epg_samples": 4,
        "search": {"kind": "grid", "trials": 2, "seed": 5},
        **changes,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def words(plan: Path, data: Path, *more: str) -> list[str]:
    folder = plan.parent
    return [
        *("sweep", str(plan), "--device", "cpu", "--data", str(data), "--runs", str(folder / "runs")),
        *("--results", str(folder / "results"), *more),
    ]


def sweep(plan: Path, data: Path, *more: str) -> Any:
    return CliRunner().invoke(app, words(plan, data, "--executor", "inline", *more))


def records(root: Path) -> list[Record]:
    return Store(root).find()


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimbench.train.experiment.cpu_split", lambda workers, on_gpu, processes: (1, workers or 0))


def test_best_trial_on_validation_runs_with_every_seed_and_a_second_call_does_nothing(
    mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path)
    before = sweep(plan, mini_root, "--dry-run")
    assert "2 runs of unknown cost" not in before.output
    assert "the best of 2 trials, 2 seeds" in before.output
    assert not (tmp_path / "results").exists(), "a dry run writes nothing"

    done = sweep(plan, mini_root)
    assert done.exit_code == 0, done.output
    trials, finals = records(tmp_path / "results" / "trials"), records(tmp_path / "results")
    assert [t.seed for t in trials] == [5, 5]
    assert not any(t.metrics["test"].epg for t in trials)
    assert {f.seed for f in finals} == {0, 1}
    assert all(f.metrics["test"].epg for f in finals)

    # Chosen by hand from the trials' files: the highest validation score of the selector that the card names.
    scores = {t.training["lr"]: (t.selectors[t.selector].val["class_balanced_accuracy"], t.id) for t in trials}
    assert finals[0].selector == "val_class_balanced_accuracy"
    best = max(scores.values())[0]
    chosen = {f.training["lr"] for f in finals}
    assert len(chosen) == 1
    score, trial = scores[chosen.pop()]
    assert score == best
    for final in finals:
        assert final.search is not None
        assert (final.search.trials, final.search.finished, final.search.trial) == (2, 2, trial)
        assert (final.search.score, final.search.metric) == (score, "class_balanced_accuracy")

    stamps = [r.created for r in trials + finals]
    again = sweep(plan, mini_root)
    assert again.exit_code == 0
    assert "of which 2 are recorded already" in again.output
    assert "other source" not in again.output
    with monkeypatch.context() as patch:
        patch.setattr("aimbench.train.method_source.source_hash", lambda module: "another")
        assert "warning: 2 of the recorded are of other source than today's of erm" in sweep(plan, mini_root).output
    assert [r.created for r in records(tmp_path / "results" / "trials") + records(tmp_path / "results")] == stamps
    after = sweep(plan, mini_root, "--dry-run")
    assert after.output.count("recorded ") == 4
    assert "still to do: 0.0 hours" in after.output


@pytest.mark.parametrize(
    ("dataset", "metric"),
    [("waterbirds@mini", "worst_group_accuracy"), ("travelingbirds@mini", "class_balanced_accuracy")],
)
def test_a_regime_that_reads_validation_groups_chooses_settings_by_the_worst_one(
    dataset: str, metric: str, mini_root: Path, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, methods=[{"method": "rwy"}], datasets=[dataset], seeds=[0], epg_samples=0)
    done = sweep(plan, mini_root)
    assert done.exit_code == 0, done.output
    (final,) = records(tmp_path / "results")
    trials = records(tmp_path / "results" / "trials")
    # Every selector's epoch is in the record; the final run's is chosen by the card's.
    scores = {t.id: t.selectors["val_class_balanced_accuracy"].val[metric] for t in trials}
    assert final.search is not None
    assert final.search.metric == metric
    assert final.search.score == scores[final.search.trial] == max(scores.values())


def test_a_plan_without_search_runs_every_setting_with_every_seed_and_forecasts_from_records(
    mini_root: Path, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, search=None, seeds=[0], epg_samples=0)
    assert "2 runs of unknown cost" in sweep(plan, mini_root, "--dry-run").output
    assert sweep(plan, mini_root).exit_code == 0
    assert {r.training["lr"] for r in records(tmp_path / "results")} == {1e-3, 1e-5}
    assert all(r.search is None for r in records(tmp_path / "results"))

    # What was evaluated and not trained here tells nothing about the cost of a run.
    trained = records(tmp_path / "results")
    evaluated = trained[0].model_copy(
        update={"training": {"external": "a model as it is"}, "selected": {}, "files": {}}
    )
    Store(tmp_path / "results").write(evaluated.model_copy(update={"id": evaluated.definition.id}))

    # Twice the epochs of the two runs so far: twice the mean of their seconds, which is the median of two.
    seconds = sum(r.cost.wall_seconds for r in trained)
    training = {"epochs": 2, "batch_size": 32, "image_size": 64}
    longer = write_plan(tmp_path, search=None, seeds=[0], epg_samples=0, training=training)
    assert f"{seconds / 60:.1f} min" in sweep(longer, mini_root, "--dry-run").output


def test_a_failed_run_is_shown_the_others_go_on_and_its_cell_waits(mini_root: Path, tmp_path: Path) -> None:
    methods = [{"method": "erm", "training": {"lr": [1e-3, 1e30]}}, {"method": "oracle_mask"}]
    plan = write_plan(tmp_path, methods=methods, seeds=[0], epg_samples=0)
    done = sweep(plan, mini_root)
    assert done.exit_code == 1
    assert "became nan" in done.output or "became inf" in done.output
    assert "erm on waterbirds@mini, test_convnext.r160_in1k\n1 of 2 trials have no record" in done.output
    assert [r.method.name for r in records(tmp_path / "results")] == ["oracle_mask"]

    rest = sweep(plan, mini_root, "--skip-failed")
    assert rest.exit_code == 1, "the failed trial is tried again, and fails again"
    assert [r.method.name for r in records(tmp_path / "results")] == ["erm", "oracle_mask"]
    erm = records(tmp_path / "results")[0]
    assert erm.search is not None
    assert (erm.search.trials, erm.search.finished) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"methods": [{"method": "emr"}]}, "did you mean 'erm'"),
        ({"methods": [{"method": "erm", "settings": {"x": 1}}]}, "has no setting 'x'"),
        ({"training": {"lrr": [1, 2]}}, "unknown training setting 'lrr'"),
        ({"datasets": ["waterbirds@94"]}, "94"),
    ],
)
def test_a_wrong_word_ends_a_sweep_before_anything_runs(
    mini_root: Path, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    done = sweep(write_plan(tmp_path, **changes), mini_root)
    assert expected in str(done.exception)
    assert not records(tmp_path / "results" / "trials")


@pytest.mark.slow
def test_local_workers_killed_with_their_sweep_leave_nothing_undone(mini_root: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, seeds=[0, 1, 2], epg_samples=0)
    program = [sys.executable, "-c", "from aimbench.cli import main; main()"]
    command = [*program, *words(plan, mini_root, "--workers", str(min(2, len(os.sched_getaffinity(0)))))]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = tmp_path / "results" / "trials"
    deadline = time.monotonic() + 120
    while not records(trials) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(records(trials)) == 2
    assert len(records(tmp_path / "results")) == 3
    threads = {r.environment["threads"] for r in records(trials)}
    cores = len(os.sched_getaffinity(0))
    assert max(threads) <= max(1, cores // 2), "two workers never have more threads than cores"


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]], ids=["in front", "behind"])
def test_a_sweep_that_is_ended_says_what_started_and_takes_its_workers_along(
    mini_root: Path, tmp_path: Path, start: list[str]
) -> None:
    """What a script or nohup starts behind it ignores SIGINT, by which the workers are ended."""
    plan = write_plan(tmp_path, training={"epochs": 1000}, search=None, epg_samples=0)
    program = [*start, sys.executable, "-u", "-c", "from aimbench.cli import main; main()"]
    running = subprocess.Popen(
        [*program, *words(plan, mini_root, "--workers", "1")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    said = [next(running.stdout)]
    while not said[-1].startswith("started: "):
        said.append(next(running.stdout))
    assert said[0].startswith("what the runs say goes to ")
    logs = said[0].split()[-1]

    def workers() -> list[str]:
        found = subprocess.run(["pgrep", "-f", f"submitit.*{logs}"], capture_output=True, text=True, check=False)
        return found.stdout.split()

    assert workers()
    running.terminate()
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert error.strip() == "stopped; the same command goes on where each run's last epoch ended"
    deadline = time.monotonic() + 30
    while workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not workers()


def test_a_job_that_another_only_looked_at_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, ran = SimpleNamespace(id="erm-0", is_done=False), []
    monkeypatch.setattr("aimbench.sweep.worker._attempt", lambda job, board, reporter: ran.append(job.id))
    board = Board(tmp_path / "sweeps" / "tiny")
    worker = threading.Thread(target=run_jobs, args=([job], board))
    with board.claim(job.id).acquire(timeout=0):
        worker.start()
        time.sleep(0.2)
        assert not ran
    worker.join()
    assert ran == [job.id]
