"""IRM: one classifier that is optimal in every environment at once (Arjovsky et al. 2019, IRMv1).

With R_e the mean cross-entropy in environment e and w a dummy scale on the logits::

    minimise mean_e [ R_e + lambda * (dR_e / dw at w = 1)^2 ]

The square is estimated without bias by the product of the gradients on two halves of the environment's samples.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import Batch, Classifier, ConfigError, Loss, Phase, Progress, Regime, Run, register_method


class IRMConfig(ERMConfig):
    """Settings of IRM."""

    penalty: float = Field(100.0, ge=0)
    """Lambda: weight of the invariance penalty after the annealing."""
    anneal_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the steps, at the start, in which the penalty's weight is 1 (SubpopBench: 500 of 5,001)."""


@register_method(
    "irm",
    regime=Regime(train="groups", select="val_groups"),
    source="Arjovsky, Bottou, Gulrajani, Lopez-Paz, arXiv 1907.02893, section 3 (IRMv1)",
)
class IRM(ERM):
    """ERM with a penalty on what a rescaled classifier could still gain in any one place."""

    Config = IRMConfig

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase; an environment is a place. While the penalty has not its weight, the model is no candidate."""
        self._places = count_places(run)
        yield Phase(candidates_from=math.ceil(self.config.anneal_fraction * run.config.epochs))

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Mean over the batch's environments of risk and weighted penalty."""
        logits = model(batch).logits
        place = batch.group % self._places
        risks, penalties = [], []
        for environment in torch.unique(place):
            members = place == environment
            risks.append(F.cross_entropy(logits[members], batch.label[members]))
            penalties.append(irm_penalty(logits[members], batch.label[members]))
        risk, penalty = torch.stack(risks).mean(), torch.stack(penalties).mean()
        weight = self.config.penalty if progress.step >= self.config.anneal_fraction * progress.steps else 1.0
        return {"loss": risk + weight * penalty, "risk": risk, "penalty": penalty}


def irm_penalty(logits: Tensor, label: Tensor) -> Tensor:
    """Product of the two halves' gradients with respect to a scale on the logits; 0 for a single sample."""
    if len(label) < 2:
        return logits.new_zeros(())
    scale = logits.new_ones(()).requires_grad_()
    halves = [F.cross_entropy(logits[start::2] * scale, label[start::2]) for start in (0, 1)]
    even, odd = (torch.autograd.grad(half, scale, create_graph=True)[0] for half in halves)
    return even * odd


def count_places(run: Run) -> int:
    """Number of places P where groups are ``label * P + place``.

    Raises:
        ConfigError: the groups are made another way, so that no place can be read off them.
    """
    places = run.num_groups // run.num_classes
    if not np.array_equal(run.groups // places, run.labels):
        raise ConfigError(
            "this method needs groups that are class x place (group = label * places + place), and those of the"
            " dataset are not; choose another method"
        )
    return places
