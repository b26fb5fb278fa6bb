"""Who runs what: of the processes that are asked for the same run, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aimbench.errors import ConfigError


def claim(runs_root: Path, run_id: str) -> FileLock:
    """The lock of a run; whoever holds it runs it. A file lock ends with its process, however that ends."""
    path = runs_root / "sweeps" / "claims" / f"{run_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def claimed(runs_root: Path, run_id: str, *, processes: int = 1) -> Iterator[None]:
    """Holds the lock of a run for a block.

    Several processes that share a run hold none: if the first were refused, the others would wait for it.

    Raises:
        ConfigError: another process holds it.
    """
    if processes > 1:
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
