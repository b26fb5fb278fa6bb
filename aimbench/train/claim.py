"""Who runs what: of the processes that are asked for the same run, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aimbench.errors import ConfigError
from aimbench.train.processes import is_first_by_environment, others_end_with_the_first


def claim(runs_root: Path, run_id: str) -> FileLock:
    """The lock of a run; whoever holds it runs it. A file lock ends with its process, however that ends."""
    path = runs_root / "sweeps" / "claims" / f"{run_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def claimed(runs_root: Path, run_id: str, *, processes: int = 1, nodes: int = 1) -> Iterator[None]:
    """Holds the lock of a run for a block.

    Of several processes that share a run the first holds it, if it can be refused without leaving the others waiting.

    Args:
        runs_root: of checkpoints.
        run_id: of the record.
        processes: that share the run, over all machines.
        nodes: machines that share it.

    Raises:
        ConfigError: another run holds it.
    """
    if processes > 1 and not (is_first_by_environment() and others_end_with_the_first(nodes)):
        yield
        return
    lock = claim(runs_root, run_id)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another process is running {run_id}; its record will come from there (it holds {lock.lock_file})"
        ) from None
    try:
        yield
    finally:
        lock.release()
