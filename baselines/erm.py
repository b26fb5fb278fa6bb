"""Empirical risk minimisation: the mean cross-entropy over the training set."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.nn import functional as F

from aimbench.train.api import (
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    LinearHead,
    Loss,
    Method,
    MethodConfig,
    Progress,
    Regime,
    register_method,
)


class ERMConfig(MethodConfig):
    """Settings of ERM."""

    standardize: bool | None = None
    """Standardise the pooled embedding before the linear layer. None: yes if the backbone is frozen,
    where a linear layer on raw features trains poorly; no if it is fine-tuned."""


@register_method("erm", regime=Regime(train="class", select="class"), source="Vapnik 1992")
class ERM(Method):
    """Ordinary training: the network's own pooled embedding, a linear layer, cross-entropy."""

    Config = ERMConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 3e-3}  # chosen by plans/baselines.yaml
    splits_batches = True

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The network's own classifier, anew."""
        return LinearHead(pyramid, num_classes, standardize=self.standardizes(frozen=frozen))

    def standardizes(self, *, frozen: bool) -> bool:
        """Whether the head standardises what it reads."""
        return frozen if self.config.standardize is None else bool(self.config.standardize)

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Mean cross-entropy."""
        return F.cross_entropy(model(batch).logits, batch.label)
