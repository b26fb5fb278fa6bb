"""Refuses a phase that would train on something else than its method meant, or on nothing."""

import re
from collections.abc import Iterator
from operator import index
from typing import Any, get_args

import numpy as np

from aimbench.errors import ConfigError, nearest_names
from aimbench.train.phase import Phase, Start

_NAME = re.compile(r"[\w-][\w .-]*")  # it is part of the names of files


def check_phase(phase: object, method: str, size: int) -> None:
    """Checks what ``Method.phases`` yielded.

    Args:
        phase: it.
        method: its name.
        size: samples of the training split.

    Raises:
        ConfigError: naming the phase, the field and the mend.
    """
    if not isinstance(phase, Phase):
        raise ConfigError(f"method '{method}': its phases yielded {type(phase).__name__}; yield Phase(...)")
    for problem in _problems(phase, size):
        raise ConfigError(f"phase '{phase.name}' of method '{method}': {problem}")


def positions_problem(positions: Any, what: str, size: int) -> str | None:
    """What is wrong with positions of the training split; None if nothing is."""
    values = np.asarray(positions)
    if values.dtype.kind == "b":
        return f"{what} is true or false a sample; give positions: np.flatnonzero({what})"
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) == 0:
        return f"{what} must hold at least one position, (n,) whole numbers; it is {values.dtype} {values.shape}"
    if values.min() < 0 or values.max() >= size:
        return f"{what} has position {values.min() if values.min() < 0 else values.max()} of {size} training samples"
    return None


def _problems(phase: Phase, size: int) -> Iterator[str]:
    if not isinstance(phase.name, str) or not _NAME.fullmatch(phase.name):
        yield "a name has letters, digits, blanks and - _ . alone"
    if phase.start not in get_args(Start):
        yield f"there is no start={phase.start!r}: {nearest_names(str(phase.start), get_args(Start))}"
    if phase.epochs is not None and not _is_count(phase.epochs, 1):
        yield f"epochs={phase.epochs!r} is no whole number above 0; without it the phase takes the run's --epochs"
    if not _is_count(phase.candidates_from, 0):
        yield f"candidates_from={phase.candidates_from!r} is no epoch, counted from 0"
    if phase.order is not None and (phase.weights is not None or phase.subset is not None):
        yield "order stands instead of weights and subset; give the one or the others"
    if phase.fit is not None and phase.chooses_samples:
        yield "fit sets the head itself and reads neither weights nor subset nor order; leave them out"
    if phase.subset is not None and (problem := positions_problem(phase.subset, "subset", size)):
        yield problem
    if phase.weights is not None and (problem := _weights_problem(phase, size)):
        yield problem


def _weights_problem(phase: Phase, size: int) -> str | None:
    weights = np.asarray(phase.weights)
    if weights.shape != (size,) or weights.dtype.kind not in "buif":
        return f"weights must be ({size},) numbers, one a training sample; they are {weights.dtype} {weights.shape}"
    if not np.isfinite(weights).all() or weights.min() < 0:
        wrong = int(np.flatnonzero(~np.isfinite(weights) | (weights < 0))[0])
        return f"weights must be 0 or more; that of training sample {wrong} is {weights[wrong]}"
    drawn = weights if phase.subset is None else weights[phase.subset]
    if not drawn.any():
        return "weights are 0 for every sample" + (" of subset" if phase.subset is not None else "")
    return None


def _is_count(value: Any, least: int) -> bool:
    try:
        return not isinstance(value, bool) and index(value) >= least
    except TypeError:
        return False
