"""Group DRO: the loss of the worst group, by weights that follow the groups' losses (Sagawa et al. 2020, Algorithm 1).

In each step, with loss_g the batch mean over group g (0 if the batch holds none of it) and n_g its training size::

    q_g <- q_g * exp(eta * (loss_g + C / sqrt(n_g)));  q <- q / sum(q)
    minimise sum_g q_g * loss_g
"""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import (
    Batch,
    Classifier,
    Loss,
    Phase,
    Progress,
    Regime,
    Run,
    batch_sum,
    inverse_frequency,
    register_method,
)


class GroupDROConfig(ERMConfig):
    """Settings of group DRO."""

    step_size: float = Field(0.01, gt=0)
    """Eta: how fast the group weights follow the losses."""
    adjustment: float = Field(0.0, ge=0)
    """C: generalisation adjustment, C / sqrt(group size) on a group's loss when the weights are updated."""
    reweight: bool = True
    """Draw every group equally often, as the official command does for Waterbirds."""


@register_method(
    "groupdro",
    regime=Regime(train="groups", select="val_groups"),
    source="Sagawa, Koh, Hashimoto, Liang, ICLR 2020, Algorithm 1",
)
class GroupDRO(ERM):
    """Minimises the worst group's loss with exponentially updated group weights."""

    Config = GroupDROConfig
    splits_batches = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase; the group weights start equal over the groups that have samples."""
        counts = torch.bincount(torch.from_numpy(run.groups), minlength=run.num_groups)
        present = (counts > 0).float()
        self.state = {
            "weights": present / present.sum(),
            # An empty group has weight 0 whatever its adjustment.
            "adjustment": self.config.adjustment / counts.clamp(min=1).sqrt(),
        }
        yield Phase(weights=inverse_frequency(run.groups) if self.config.reweight else None)

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Updates the group weights, then weights the groups' losses by them."""
        losses = F.cross_entropy(model(batch).logits, batch.label, reduction="none")
        state = {name: value.to(losses.device) for name, value in self.state.items()}
        group_losses = mean_by_group(losses, batch.group, len(state["weights"]))
        weights = update_weights(state["weights"], group_losses.detach() + state["adjustment"], self.config.step_size)
        self.state["weights"] = weights
        return {"loss": (weights * group_losses).sum(), "worst group weight": weights.max()}


def mean_by_group(losses: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Means ``(G,)`` of ``losses`` ``(N,)`` over the whole batch's samples of each group; 0 for a group without any."""
    member = F.one_hot(group, num_groups).to(losses.dtype)
    means: Tensor = batch_sum(losses @ member) / batch_sum(member.sum(dim=0)).clamp(min=1)
    return means


def update_weights(weights: Tensor, losses: Tensor, step_size: float) -> Tensor:
    """One exponentiated-gradient step on the group weights ``(G,)``, which sum to 1."""
    raised = weights * torch.exp(step_size * losses)
    return raised / raised.sum()
