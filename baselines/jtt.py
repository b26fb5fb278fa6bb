"""JTT: train, then train anew with the training errors repeated (Liu et al. 2021, Algorithm 1)."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import Phase, Regime, Run, register_method


class JTTConfig(ERMConfig):
    """Settings of JTT."""

    identify_epochs: int | None = Field(None, ge=1)
    """T: epochs of the identification model. None: a fifth of the run's epochs, as 60 of 300 in the paper."""
    upweight: int = Field(100, ge=1)
    """Lambda_up: how often an error counts."""
    copies: Literal["upweight", "upweight+1"] = "upweight+1"
    """How often an error is seen in an epoch: the paper's ``upweight``, or once more, as the authors' code does by
    adding ``upweight`` copies to the whole training set."""


@register_method(
    "jtt",
    regime=Regime(train="class", select="val_groups"),
    source="Liu, Haghgoo, Chen, Raghunathan, Koh, Sagawa, Liang, Finn, ICML 2021, Algorithm 1",
)
class JTT(ERM):
    """ERM twice: the second time, what the first misclassified in training is seen more often."""

    Config = JTTConfig
    splits_batches = True
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """Identify the errors, then train from the start with them repeated."""
        epochs = self.config.identify_epochs or math.ceil(run.config.epochs / 5)
        yield Phase("identify", epochs=epochs)
        errors = run.predict("train").errors()
        if not len(errors):
            run.warn("the first model made no training error, so JTT is ERM; fewer identify_epochs leave some")
        times = self.config.upweight + (self.config.copies == "upweight+1")
        yield Phase("train", start="pretrained", subset=with_repeated(len(run.labels), errors, times))


def with_repeated(size: int, errors: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """All positions below ``size``, those in ``errors`` (each named once) ``times`` times."""
    return np.concatenate([np.arange(size), np.repeat(errors, times - 1)])
