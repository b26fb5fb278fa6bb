"""Several processes, one run: what each takes of a batch or a split, and how they speak.

One process is the ordinary case: every function here is then a no-op. Processes
are started by Lightning Fabric (see ``train/processes.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one of several processes takes.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    def of_batch(self, size: int) -> slice:
        """Its samples of a batch of ``size``, consecutive; shares differ by one at most, and may be empty."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def of_split(self, size: int, batch_size: int) -> npt.NDArray[np.int64]:
        """Its positions among ``size`` of them: whole batches, every ``count``-th, in order.

        A batch then holds the same samples as in one process, so its numbers are the same to the last bit.
        With fewer batches than processes, each process takes everything.
        """
        positions = np.arange(size)
        batches = -(-size // batch_size)
        if batches < self.count:
            return positions
        mine: npt.NDArray[np.int64] = positions[(positions // batch_size) % self.count == self.rank]
        return mine


WHOLE = Share()
"""One process takes everything."""


def share() -> Share:
    """That of this process."""
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return WHOLE


def is_first() -> bool:
    """Whether this process writes: checkpoints, caches, records, lines of progress."""
    return share().rank == 0


def wait() -> None:
    """Waits until every process is here."""
    if share().count > 1:
        dist.barrier()


def by_first(work: Callable[[], None]) -> None:
    """The first process works while the others wait; what it writes, they can read afterwards."""
    if is_first():
        work()
    wait()


def gather(value: T) -> list[T]:
    """Every process's ``value``, in the order of ranks, in every process."""
    count = share().count
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    dist.all_gather_object(values, value)
    return values
