"""Sweeps on a real SLURM of one node, started for these tests; skipped with the reason where it can't start."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aimbench.errors import ConfigError
from aimbench.results.store import Store
from aimbench.sweep.engine import make_executor

CLUSTER = Path(__file__).parents[2] / "tools" / "slurm_single_node.sh"
PROGRAM = [sys.executable, "-c", "from aimbench.cli import main; main()"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which sbatch speaks to a cluster of this machine."""
    folder = str(tmp_path_factory.mktemp("slurm"))
    started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True, timeout=120)
    if started.returncode != 0:
        pytest.skip(f"SLURM can't start here: {started.stderr.strip()}")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    try:
        yield {**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"}
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=False, timeout=60)


def command(folder: Path, data: Path, *more: str, methods: list[dict[str, Any]], epochs: int = 1) -> list[str]:
    plan = {
        "name": "tiny",
        "methods": methods,
        "datasets": ["waterbirds@mini"],
        "backbones": ["test_convnext.r160_in1k"],
        "weights": "none",
        "seeds": [0],
        "training": {"epochs": epochs, "batch_size": 32, "image_size": 64},
        "epg_samples": 0,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    where = ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    return [*PROGRAM, "sweep", str(path), "--device", "cpu", "--executor", "slurm", *where, *more]


def queue(environment: dict[str, str], layout: str) -> list[str]:
    words = ["squeue", "--noheader", f"--format={layout}"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
def test_jobs_of_a_sweep_give_records_failures_are_shown_and_a_second_call_tries_only_these(
    slurm: dict[str, str], mini_root: Path, tmp_path: Path
) -> None:
    bad = {"method": "oracle_mask", "training": {"lr": 1e30}}
    both = command(tmp_path, mini_root, "--slurm", "cpus_per_task=1", methods=[{"method": "erm"}, bad])
    done = subprocess.run(both, env=slurm, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert "1 runs recorded, 1 failed" in done.stdout
    assert "FAILED" in done.stderr
    assert "lower --lr" in done.stderr, "the job's own words come back from the node"

    (record,) = Store(tmp_path / "results").find()
    assert record.method.name == "erm"
    assert record.environment["threads"] == 1, "a job keeps to the cores that it was given"
    logs = tmp_path / "runs" / "sweeps" / "logs" / "tiny"
    assert len(list(logs.glob("*_0_log.err"))) == 2, "two jobs ran under SLURM"
    assert queue(slurm, "%F") == []

    good = command(tmp_path, mini_root, "--slurm", "cpus_per_task=1", methods=[{"method": "erm"}])
    again = subprocess.run(good, env=slurm, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "of which 1 are recorded already" in again.stdout
    assert Store(tmp_path / "results").get(record.id).created == record.created
    assert len(list(logs.glob("*_0_log.err"))) == 2, "nothing was submitted"


@pytest.mark.slow
def test_a_job_cancelled_on_the_cluster_ends_the_sweep_with_a_word(
    slurm: dict[str, str], mini_root: Path, tmp_path: Path
) -> None:
    words = command(tmp_path, mini_root, methods=[{"method": "erm"}], epochs=10_000)
    sweep = subprocess.Popen(words, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while "R" not in queue(slurm, "%t") and time.monotonic() < deadline:
        time.sleep(0.2)
    subprocess.run(["scancel", "--name", "aimbench"], env=slurm, check=True)
    _, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 1, errors
    assert "ended without a word" in errors


@pytest.mark.slow
def test_a_partition_that_does_not_exist_is_an_error_that_names_it(
    slurm: dict[str, str], mini_root: Path, tmp_path: Path
) -> None:
    words = command(tmp_path, mini_root, "--slurm", "slurm_partition=nowhere", methods=[{"method": "erm"}])
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "invalid partition specified: nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_whose_processes_slurm_starts(slurm: dict[str, str], mini_root: Path, tmp_path: Path) -> None:
    what = "--method erm --dataset waterbirds@mini --backbone test_convnext.r160_in1k --weights none --epochs 1"
    how = "--image-size 64 --batch-size 32 --epg-samples 0 --device cpu --devices 2"
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results")]
    start = ["srun", "--nodes=1", "--ntasks-per-node=2", "--overcommit", *PROGRAM, "run"]
    words = [*start, *what.split(), *how.split(), f"--data={mini_root}", *folders]
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (record,) = Store(tmp_path / "results").find()
    assert (record.environment["devices"], record.environment["threads"]) == (2, 1)
    assert "Starting with 2 processes" in done.stderr


def test_without_slurm_the_executor_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="login node"):
        make_executor("slurm", None, tmp_path)
