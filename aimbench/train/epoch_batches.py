"""The batches of one training epoch, as a phase asks for them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aimbench.data.batch import Batch
from aimbench.data.loader import epoch_order
from aimbench.data.sharing import share
from aimbench.data.stream import StreamSource
from aimbench.errors import ConfigError
from aimbench.train.config import TrainConfig
from aimbench.train.phase import Phase
from aimbench.train.phase_check import positions_problem
from aimbench.train.sources import RunData


@dataclass(frozen=True)
class EpochBatches:
    """One epoch: its samples, its steps, and the batches themselves.

    Samples and steps are those of the run; where several processes share it, each batch is this process's part.
    """

    samples: int
    steps: int
    batches: Iterator[Batch]


def epoch_batches(data: RunData, phase: Phase, config: TrainConfig, seed: int) -> EpochBatches:
    """The batches of an epoch of ``phase``.

    Args:
        data: the run's sources.
        phase: which samples, how often, in what order.
        config: with the phase's settings applied.
        seed: of this epoch.

    Raises:
        ConfigError: the phase chooses samples, which a stream cannot, or an order of none that there are.
    """
    source = data.training(augment=config.augment, images=phase.images)
    if isinstance(source, StreamSource):
        if phase.chooses_samples:
            raise ConfigError(
                f"phase '{phase.name}' weights, orders or leaves out samples, which a stream cannot; use --loader"
                " indexed"
            )
        size = len(source)
        drop_last = _ends_alone(size, config.batch_size)
        batches = source.epoch(seed, drop_last=drop_last)
    else:
        if phase.order is not None:
            order = phase.order(np.random.default_rng(seed))
            if problem := positions_problem(order, "order", len(source)):
                raise ConfigError(f"phase '{phase.name}': {problem}")
        else:
            order = epoch_order(len(source), seed, weights=phase.weights, subset=phase.subset)
        size = len(order)
        drop_last = _ends_alone(size, config.batch_size)
        batches = source.epoch(order, seed, drop_last=drop_last, batch_size=config.batch_size, share=share())
    steps = size // config.batch_size if drop_last else -(-size // config.batch_size)
    return EpochBatches(size, steps, batches)


def _ends_alone(size: int, batch_size: int) -> bool:
    """Whether the last batch would hold a single sample, on which batch norm cannot train."""
    return size % batch_size == 1
