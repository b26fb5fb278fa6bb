"""What a process of a sweep does: takes jobs that nobody else has taken, and runs them to their records."""

import os
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from submitit.helpers import DelayedSubmission

from aimbench.errors import AimbenchError
from aimbench.machine import is_alive
from aimbench.results.store import Store
from aimbench.sweep.jobs import Job
from aimbench.train.claim import claim
from aimbench.train.experiment import Experiment
from aimbench.train.progress import Reporter


@dataclass(frozen=True)
class Board:
    """The sweep's working folder, by which its processes know of each other."""

    folder: Path

    def claim(self, job_id: str) -> FileLock:
        """The lock of a job; whoever holds it runs the job."""
        return claim(self.folder.parent, job_id)

    def slot(self, number: int) -> FileLock:
        """The lock of one place among the local workers; an orphan of a killed sweep holds it until it has ended."""
        return self._lock(f"slots/{number}.lock")

    def is_claimed(self, job_id: str) -> bool:
        """Whether a living process runs the job."""
        try:
            with self.claim(job_id).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def failure(self, job_id: str) -> str | None:
        """What ended the job's last attempt; None if nothing did."""
        path = self._failure(job_id)
        return path.read_text(encoding="utf-8") if path.exists() else None

    def report(self, job_id: str, text: str) -> None:
        """Keeps what ended an attempt."""
        self._failure(job_id).parent.mkdir(parents=True, exist_ok=True)
        self._failure(job_id).write_text(text, encoding="utf-8")

    def start(self, job_id: str) -> None:
        """Says that the job has begun."""
        self._start(job_id).parent.mkdir(parents=True, exist_ok=True)
        self._start(job_id).touch()

    def is_started(self, job_id: str) -> bool:
        """Whether the job has begun since it was last forgotten."""
        return self._start(job_id).exists()

    def forget(self, job_id: str) -> None:
        """Removes what is known of an earlier attempt, so that the job is tried again."""
        self._failure(job_id).unlink(missing_ok=True)
        self._start(job_id).unlink(missing_ok=True)

    def _failure(self, job_id: str) -> Path:
        return self.folder / "failures" / f"{job_id}.txt"

    def _start(self, job_id: str) -> Path:
        return self.folder / "started" / job_id

    def _lock(self, name: str) -> FileLock:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)


@dataclass(frozen=True)
class Share:
    """A local worker's part of the machine: its place among ``of`` workers, and the sweep that it belongs to."""

    number: int
    of: int
    parent: int = 0
    host: str = ""

    def take_cores(self) -> None:
        """Keeps this process on its own cores: PyTorch's threads and the loader's workers follow from their number."""
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[self.number :: self.of])

    @property
    def is_orphan(self) -> bool:
        """Whether the sweep that started this worker is gone."""
        return self.host == socket.gethostname() and not is_alive(self.parent)


class Worker:
    """Runs jobs one after another in one process."""

    def __call__(self, jobs: Sequence[Job], board: Board, share: Share | None = None) -> None:
        """Runs every job that is neither recorded, nor failed, nor run by another process."""
        if share is None:
            run_jobs(jobs, board)
            return
        share.take_cores()
        with board.slot(share.number):
            run_jobs(jobs, board, share)

    def checkpoint(self, jobs: Sequence[Job], board: Board, share: Share | None = None) -> DelayedSubmission:
        """What submitit queues again at a cluster's time limit: the same jobs, which go on from their checkpoints."""
        return DelayedSubmission(self, jobs, board, share)


def run_jobs(jobs: Sequence[Job], board: Board, share: Share | None = None) -> None:
    """Runs every job that is neither recorded, nor failed, nor run by another process."""
    reporter = Reporter()
    for job in jobs:
        if share is not None and share.is_orphan:
            return
        # One second, since another may hold the lock for a moment, to see whether the job is free.
        with suppress(Timeout), board.claim(job.id).acquire(timeout=1):
            if not job.is_done and board.failure(job.id) is None:
                _attempt(job, board, reporter)


def _attempt(job: Job, board: Board, reporter: Reporter) -> None:
    board.start(job.id)
    reporter.line(f"{job.id}: {job.title}")
    try:
        run_job(job, reporter)
    except AimbenchError as error:
        board.report(job.id, str(error))
    except Exception:  # a sweep goes on with its other jobs; this one's failure is shown at its end
        board.report(job.id, traceback.format_exc())
    else:
        return
    print(board.failure(job.id), file=sys.stderr)


def run_job(job: Job, reporter: Reporter) -> None:
    """Runs one job, from its checkpoint if there is one, and stores its record."""
    result = Experiment(job.request, reporter).run()
    # Peak memory is the process's, and an earlier job of this process may have reached it.
    cost = result.record.cost.model_copy(update={"peak_memory_mb": None})
    record = result.record.model_copy(update={"search": job.search, "cost": cost})
    Store(job.results).write_run(record, result.files)
