"""Mixup: training on convex combinations of samples and of their labels (Zhang et al. 2018)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import Batch, Classifier, Loss, Progress, Regime, register_method


class MixupConfig(ERMConfig):
    """Settings of mixup."""

    alpha: float = Field(0.2, gt=0)
    """Of Beta(alpha, alpha), from which the mixing weight is drawn, one a batch."""


@register_method(
    "mixup",
    regime=Regime(train="class", select="class"),
    source="Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018",
)
class Mixup(ERM):
    """ERM on each batch mixed with a permutation of itself."""

    Config = MixupConfig

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy of the mixed samples against both labels, weighted as the samples are."""
        weight = draw_weight(self.config.alpha)
        partner = torch.randperm(len(batch)).to(batch.label.device)
        logits = model(mixed(batch, partner, weight)).logits
        return mixed_cross_entropy(logits, batch.label, batch.label[partner], weight)


def draw_weight(alpha: float) -> float:
    """One draw from Beta(alpha, alpha), by torch's generator, which checkpoints keep."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def mixed(batch: Batch, partner: Tensor, weight: float) -> Batch:
    """``weight`` of each sample and the rest of its partner: images, or features where the batch carries them.

    Args:
        batch: at least N samples.
        partner: ``(N,)`` positions in the batch, of the partners of its first N samples.
        weight: in [0, 1].

    Returns:
        N mixed samples, with the index and label of the first of each pair.
    """
    first = slice(len(partner))

    def mix(value: Tensor) -> Tensor:
        return torch.lerp(value[partner], value[first], weight)

    if batch.features is not None:
        # Entries of the pyramid that the head does not read are empty.
        features = [mix(entry) if entry.numel() else entry for entry in batch.features]
        return Batch(batch.index[first], batch.label[first], features=features)
    return Batch(batch.index[first], batch.label[first], image=mix(batch.image))


def mixed_cross_entropy(logits: Tensor, label: Tensor, partner_label: Tensor, weight: float) -> Tensor:
    """Mean cross-entropy against the mixed one-hot labels."""
    return weight * F.cross_entropy(logits, label) + (1 - weight) * F.cross_entropy(logits, partner_label)
