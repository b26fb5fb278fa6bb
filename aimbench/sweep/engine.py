"""Runs a plan: its trials, the choice among them, its final runs. Processes are submitit's, here or on a cluster.

What is done is known by record id alone, so a sweep that was killed anywhere
goes on when the same command is given again.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import submitit
import torch
from submitit.core.utils import FailedJobError

from aimbench.errors import ConfigError
from aimbench.machine import usable_cores
from aimbench.sweep.jobs import Job, Planner
from aimbench.sweep.worker import Board, Share, Worker, run_jobs

ExecutorName = Literal["inline", "local", "slurm"]
_YEAR_MINUTES = 365 * 24 * 60
_SLURM_MINUTES = 240  # submitit's own default is 5; at the limit a job is queued again and goes on


class Executor(Protocol):
    """Something that attempts jobs; how each ended is read from the store and the board."""

    def __call__(self, jobs: Sequence[Job], board: Board, tick: Callable[[], None]) -> None:
        """Returns when every job was attempted; calls ``tick`` now and then meanwhile."""
        ...


@dataclass(frozen=True)
class Inline:
    """One after another in this process: modules are imported once, nothing is sent anywhere."""

    def __call__(self, jobs: Sequence[Job], board: Board, tick: Callable[[], None]) -> None:
        """Runs the jobs."""
        for job in jobs:
            run_jobs([job], board)
            tick()


@dataclass(frozen=True)
class Local:
    """``workers`` processes on this machine, each with its own cores, GPU and part of the cache.

    Args:
        workers: processes.
        logs: folder of their output.
    """

    workers: int
    logs: Path

    def __call__(self, jobs: Sequence[Job], board: Board, tick: Callable[[], None]) -> None:
        """Starts the workers on one list, of which each takes what is free; ends them if this process is stopped."""
        executor = submitit.LocalExecutor(folder=self.logs)
        gpus = torch.cuda.device_count()
        workers = min(self.workers, len(jobs))
        shared = [replace(job, request=replace(job.request, cache_gb=job.request.cache_gb / workers)) for job in jobs]
        started: list[submitit.Job[None]] = []
        try:
            for number in range(workers):
                executor.update_parameters(
                    timeout_min=_YEAR_MINUTES,
                    gpus_per_node=min(gpus, 1),
                    visible_gpus=[number % gpus] if gpus else [],
                )
                share = Share(number, workers, os.getpid(), socket.gethostname())
                with _errors_into(self.logs / "controllers.log"):
                    started.append(executor.submit(Worker(), shared, board, share))
            while not all(process.done() for process in started):
                time.sleep(0.5)
                tick()
        finally:
            for process in started:
                if not process.done():
                    process.cancel()


@contextmanager
def _errors_into(log: Path) -> Iterator[None]:
    """Has processes that start in the block write their errors into a file.

    submitit's own process, between this one and a worker, answers Ctrl-C with a traceback, which says nothing.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@dataclass(frozen=True)
class Slurm:
    """A SLURM job a run, ``workers`` at a time.

    Args:
        workers: jobs that run at once.
        logs: folder on a file system that all nodes share.
        parameters: of ``submitit.AutoExecutor``, such as ``slurm_partition``.
        poll_seconds: between two looks at the queue.
    """

    workers: int
    logs: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    poll_seconds: float = 15.0

    def __call__(self, jobs: Sequence[Job], board: Board, tick: Callable[[], None]) -> None:
        """Submits one array and waits until none of it is in the queue; jobs go on if this process is stopped.

        Raises:
            ConfigError: a parameter that submitit or the cluster does not know.
        """
        executor = submitit.AutoExecutor(folder=self.logs, cluster="slurm")
        parameters = {"name": "aimbench", "timeout_min": _SLURM_MINUTES, **self.parameters}
        try:
            executor.update_parameters(slurm_array_parallelism=self.workers, **parameters)
            with executor.batch():
                started = [executor.submit(Worker(), [job], board) for job in jobs]
        except (NameError, TypeError, ValueError, FailedJobError) as error:
            raise ConfigError(f"SLURM did not take the jobs: {error}; mend --slurm {self.parameters}") from error
        array = started[0].job_id.partition("_")[0]
        while _in_slurm_queue(array):
            time.sleep(self.poll_seconds)
            tick()


def _in_slurm_queue(array: str) -> bool:
    """Whether any job of the array waits or runs; yes while the controller does not answer.

    Asked of ``squeue`` and not, as submitit does, of ``sacct``: that one knows nothing on a cluster without
    accounting, where a job that was cancelled would be waited for without end.
    """
    command = ["squeue", "--me", "--noheader", "--format=%F"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.returncode != 0 or array in answer.stdout.split()


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: ids of finished jobs, and by title what stopped the others."""

    done: list[str]
    failures: dict[str, str]


class Sweep:
    """A plan on its way.

    Args:
        planner: makes the jobs.
        executor: attempts them.
        say: shows one line.
        skip_failed: choose among the trials that have finished; else a failed trial holds its cell's final runs back.
    """

    def __init__(
        self, planner: Planner, executor: Executor, say: Callable[[str], None], *, skip_failed: bool = False
    ) -> None:
        self.planner = planner
        self.executor = executor
        self.say = say
        self.skip_failed = skip_failed
        self.board = Board(planner.roots.runs / "sweeps")

    def run(self) -> Outcome:
        """Runs everything that has no record yet."""
        outcome = self._attempt("trials", [job for cell in self.planner.cells for job in cell.trials])
        finals = []
        for cell in self.planner.cells:
            if cell.missing and (not self.skip_failed or cell.missing == len(cell.trials)):
                outcome.failures[cell.title] = (
                    f"{cell.missing} of {len(cell.trials)} trials have no record, so none is the best: mend them, or"
                    " choose among the others with --skip-failed"
                )
            else:
                finals += self.planner.finals(cell)
        last = self._attempt("final runs", finals)
        return Outcome(outcome.done + last.done, {**outcome.failures, **last.failures})

    def _attempt(self, name: str, jobs: list[Job]) -> Outcome:
        jobs = list({job.id: job for job in jobs}.values())  # two cells may ask for the same run
        waiting = [job for job in jobs if not job.is_done]
        if jobs:
            self.say(f"{name}: {len(jobs)}, of which {len(jobs) - len(waiting)} are recorded already")
            self._tell_other_source([job for job in jobs if job.is_done])
        for job in waiting:
            self.board.forget(job.id)
        if waiting:
            watch = _Watch(waiting, self.board, self.say)
            self.executor(waiting, self.board, watch.look)
            while any(not job.is_done and self.board.is_claimed(job.id) for job in waiting):
                time.sleep(1.0)  # another sweep's process runs it
            watch.look()
        failures = {
            f"{job.id} ({job.title})": self.board.failure(job.id) or "its process ended without a word; see the logs"
            for job in waiting
            if not job.is_done
        }
        return Outcome([job.id for job in jobs if job.is_done], failures)

    def _tell_other_source(self, done: list[Job]) -> None:
        other = [job for job in done if job.is_of_other_source]
        if other:
            names = ", ".join(sorted({job.request.method for job in other}))
            self.say(
                f"warning: {len(other)} of the recorded are of other source than today's of {names}; 'aimbench run"
                " --rerun' makes one again"
            )


class _Watch:
    """Says of each job once that it began, and once how it ended."""

    def __init__(self, jobs: Sequence[Job], board: Board, say: Callable[[str], None]) -> None:
        self._open = list(jobs)
        self._to_start = list(jobs)
        self._total = len(jobs)
        self._board = board
        self._say = say

    def look(self) -> None:
        for job in [job for job in self._to_start if self._board.is_started(job.id)]:
            self._to_start.remove(job)
            self._say(f"started: {job.id} ({job.title})")
        for job in list(self._open):
            failure = self._board.failure(job.id)
            if failure is None and not job.is_done:
                continue
            self._open.remove(job)
            count = f"{self._total - len(self._open)}/{self._total}"
            self._say(f"{count} {'done' if failure is None else 'FAILED'}: {job.id} ({job.title})")


def make_executor(
    name: ExecutorName, workers: int | None, logs: Path, parameters: dict[str, Any] | None = None
) -> Executor:
    """The executor of this name; ``workers`` None takes one, or one a GPU.

    Raises:
        ConfigError: an option that says nothing with this executor, more workers than cores, the platform cannot keep
            processes on their own cores, or no SLURM.
    """
    if parameters and name != "slurm":
        raise ConfigError(f"--slurm says nothing with --executor {name}; leave it out")
    if name == "inline":
        if workers is not None:
            raise ConfigError("--workers says nothing with --executor inline, which is one process; leave it out")
        return Inline()
    if name == "slurm":
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise ConfigError(
                "sbatch and squeue were not found: give this command on a login node of a SLURM cluster, or use"
                " --executor local"
            )
        return Slurm(workers or 16, logs, parameters or {})
    workers = workers or max(1, torch.cuda.device_count())
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("this system can't keep a process on its own cores; use --executor inline")
    cores = usable_cores()
    if workers > cores:
        raise ConfigError(f"--workers {workers}: this process may use {cores} cores, and a worker needs one of its own")
    return Local(workers, logs)
