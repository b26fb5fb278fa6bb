"""Balancing a training set by class or by group: weights to draw by, or a subset to keep."""

import numpy as np
import numpy.typing as npt


def inverse_frequency(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sampling weights ``(N,)`` that make every value (class or group) equally likely to be drawn."""
    counts = np.bincount(values)
    return 1.0 / counts[values]


def balanced_subset(values: npt.NDArray[np.int64], seed: int | tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Sorted positions of as many samples of each value as the rarest has, drawn without replacement.

    Values between 0 and the largest that no sample has are left out of account.
    """
    generator = np.random.default_rng(seed)
    present, counts = np.unique(values, return_counts=True)
    chosen = [generator.choice(np.flatnonzero(values == value), counts.min(), replace=False) for value in present]
    return np.sort(np.concatenate(chosen))
