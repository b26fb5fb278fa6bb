"""What a method yields: one phase after the other, each a stretch of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aimbench.models.classifier import Classifier
from aimbench.train.predictions import Predictions

Start = Literal["pretrained", "current", "new_head"]


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        epoch: of this phase, from 0.
        epochs: of this phase.
        step: of this phase, from 0.
        steps: of this phase.
    """

    epoch: int
    epochs: int
    step: int
    steps: int


@dataclass(frozen=True)
class Fitted:
    """What one epoch of a phase without gradient steps came to.

    Attributes:
        log: scalars to log.
        held_out: predictions of the whole validation split, each by a model that was not fitted on the
            sample. A method that trains on the validation split must give them: they stand for the
            model's own in selection and in the record.
    """

    log: Mapping[str, float] = field(default_factory=dict)
    held_out: Predictions | None = None


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one optimiser and one schedule.

    Attributes:
        name: unique within the method; names its checkpoints and curves.
        epochs: at least 1; None takes the run's number of epochs.
        start: ``current`` goes on from the last phase; ``pretrained`` builds backbone and head anew;
            ``new_head`` builds the head anew on the last phase's backbone.
        weights: ``(N_train,)`` sampling weights, 0 or more, drawn with replacement; None shuffles.
        subset: positions of the training split to train on, at least one; a repeated position is a repeated sample.
        order: positions of one epoch, from a generator that the engine seeds; instead of ``weights`` and
            ``subset``. Consecutive positions make a batch.
        settings: training settings that this phase changes, e.g. ``{"lr": 1e-4}``; see ``config.for_phase`` for
            those that it can. ``{"train": "head"}`` freezes the backbone for this phase.
        keep_optimizer: go on with the last phase's optimiser: its momenta, and its learning rates as they
            stood at the end.
        images: hand out images although the frozen backbone's features are cached.
        fit: called instead of gradient steps, once an epoch with model and epoch: the method sets the
            head's parameters itself. Every epoch is a candidate of its own, so a grid of settings is
            one phase with an epoch for each, and the run's selector chooses among them.
        candidates_from: first epoch (from 0) that a selector may choose. Earlier models are not yet the
            method's: AIM's masks, say, are still being closed. The last epoch is always a candidate.
    """

    name: str = "train"
    epochs: int | None = None
    start: Start = "current"
    weights: npt.NDArray[np.float64] | None = None
    subset: npt.NDArray[np.int64] | None = None
    order: Callable[[np.random.Generator], npt.NDArray[np.int64]] | None = None
    settings: Mapping[str, Any] | None = None
    keep_optimizer: bool = False
    images: bool = False
    fit: Callable[[Classifier, int], Fitted] | None = None
    candidates_from: int = 0

    @property
    def chooses_samples(self) -> bool:
        """Whether the phase trains on other than every sample once an epoch."""
        return self.weights is not None or self.subset is not None or self.order is not None
