"""Oracle mask: the backbone's features pooled inside the ground-truth mask. A ceiling, not a method to rank."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import STAGES, FeaturePyramid, Head, Output, Regime, Standardize, register_method


class OracleMaskConfig(ERMConfig):
    """Settings of the oracle."""

    inverse: bool = False
    """Pool outside the object instead: what the background alone, and the receptive field's leak, can do."""


class MaskedPoolHead(Head):
    """A linear layer on S3 averaged with the mask's share of each position as weight."""

    reads_mask = True

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, inverse: bool, standardize: bool) -> None:
        super().__init__()
        self.stages = (STAGES - 1,)
        self.inverse = inverse
        self._embed_mean = pyramid.embed_mean  # a bound method, so that the pyramid is not registered twice
        self.standardize = Standardize(pyramid.embed_dim) if standardize else nn.Identity()
        self.classifier = nn.Linear(pyramid.embed_dim, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies from the masked mean of S3.

        Without a pixel of ground truth every position counts; where the inverse leaves none, the mean is 0.
        """
        assert mask is not None
        feature = features[STAGES - 1]
        weight = F.adaptive_avg_pool2d(mask, (feature.shape[-2], feature.shape[-1]))
        known = weight.sum(dim=(2, 3), keepdim=True) > 0
        weight = torch.where(known, 1 - weight if self.inverse else weight, torch.ones_like(weight))
        masked = feature * weight
        total = weight.sum(dim=(2, 3))
        embedding = self._embed_mean(masked.sum(dim=(2, 3)) / total.masked_fill(total == 0, 1))
        return Output(logits=self.classifier(self.standardize(embedding)), embedding=embedding, last_map=masked)


@register_method(
    "oracle_mask",
    regime=Regime(train="masks", select="class"),
    source="aimbench: reference, the ceiling of methods that mask features",
)
class OracleMask(ERM):
    """ERM on features pooled inside the ground-truth mask, in training and at test time."""

    Config = OracleMaskConfig

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """Masked pooling and a linear layer."""
        standardize = self.standardizes(frozen=frozen)
        return MaskedPoolHead(pyramid, num_classes, inverse=self.config.inverse, standardize=standardize)
