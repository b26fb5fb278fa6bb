"""For losses that are more than a mean over samples: quantities of the whole batch, however many processes share it.

In one process these are the plain operations. A method whose loss only averages over samples needs none of them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from aimbench.data.sharing import Share
from aimbench.models.global_norm import sum_over_processes


@dataclass(frozen=True)
class _Part:
    """This process's samples of the batch at hand."""

    rows: slice
    size: int


_part: _Part | None = None


@contextmanager
def sharing(share: Share, size: int) -> Iterator[None]:
    """Inside, a batch of ``size`` samples is shared by the processes of the run."""
    global _part  # one process trains one batch at a time
    _part = _Part(share.of_batch(size), size) if share.count > 1 else None
    try:
        yield
    finally:
        _part = None


def batch_sum(value: Tensor) -> Tensor:
    """Sum over processes of what each has summed over its samples; gradients reach all of them."""
    return value if _part is None else sum_over_processes(value)


def batch_mean(value: Tensor) -> Tensor:
    """Mean of all entries of ``(N, ...)`` over the whole batch."""
    if _part is None:
        return value.mean()
    return sum_over_processes(value.sum()) / (_part.size * math.prod(value.shape[1:]))


def uniform_like(value: Tensor) -> Tensor:
    """Uniform noise in [0, 1) shaped like ``(N, ...)``: each process draws the whole batch's and takes its rows.

    The processes' generators stay equal, and the noise is that of one process.
    """
    if _part is None:
        return torch.rand_like(value)
    noise = torch.rand((_part.size, *value.shape[1:]), dtype=value.dtype, device=value.device)
    return noise[_part.rows]
