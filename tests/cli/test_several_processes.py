"""``aimbench run`` in two processes: started by itself, by torchrun, and as two machines by two torchruns."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TORCHRUN = ["-m", "torch.distributed.run"]


def start(folder: Path, data: Path, launcher: list[str], *more: str) -> "subprocess.Popen[str]":
    what = "--method erm --dataset waterbirds@mini --backbone test_convnext.r160_in1k --weights none --epochs 1"
    how = "--image-size 64 --batch-size 32 --epg-samples 8 --device cpu"
    where = [f"--data={data}", f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]
    program = [sys.executable, *launcher, str(Path(sys.executable).with_name("aimbench")), "run"]
    return subprocess.Popen(
        [*program, *what.split(), *how.split(), *more, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def record_of(folder: Path, processes: "list[subprocess.Popen[str]]") -> tuple[int, int]:
    """Devices and machines that the one record names, once every process has ended well."""
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    (path,) = (folder / "results" / "records").rglob("*.json")
    assert "".join(out for out, _ in outputs).split().count(str(path)) == 1, "the first process alone speaks"
    environment = json.loads(path.read_text())["environment"]
    return environment["devices"], environment["nodes"]


@pytest.mark.slow
def test_by_itself_with_one_live_view(mini_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, mini_root, [], "--devices", "2", "--log", "tensorboard")
    assert record_of(tmp_path, [process]) == (2, 1)
    assert len(list((tmp_path / "runs").rglob("events.out*"))) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_command_with_a_word(mini_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, mini_root, [], "--devices", "2", "--epochs", "10000")
    deadline = time.monotonic() + 600
    while not list((tmp_path / "runs").rglob("last.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    try:
        (child,) = subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, check=True).stdout.split()
        os.kill(int(child), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2, errors
    assert "another of the 2 processes of this run has ended early" in errors
    assert "the same command goes on from it" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_under_torchrun(mini_root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, mini_root, [*TORCHRUN, "--nproc-per-node", "2"], "--devices", "2")
    assert record_of(tmp_path, [process]) == (2, 1)


@pytest.mark.slow
def test_two_machines(mini_root: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    launchers = [[*TORCHRUN, *common, "--node-rank", str(rank)] for rank in range(2)]
    processes = [start(tmp_path, mini_root, launcher, "--devices", "1", "--nodes", "2") for launcher in launchers]
    assert record_of(tmp_path, processes) == (1, 2)
