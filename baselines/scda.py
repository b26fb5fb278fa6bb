"""Selective convolutional descriptor aggregation: a mask that is computed, not learned. A control for learned masks."""

from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.train.api import (
    STAGES,
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    Loss,
    Method,
    MethodConfig,
    Output,
    Progress,
    Regime,
    Standardize,
    register_method,
)


class SCDAConfig(MethodConfig):
    """Settings of SCDA."""

    standardize: bool | None = None
    """Standardise the pooled features. None: yes if the backbone is frozen."""


class SelectedPoolHead(Head):
    """A linear layer on S3 averaged over the positions that respond more than the image's mean."""

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, standardize: bool) -> None:
        super().__init__()
        self.stages = (STAGES - 1,)
        channels = pyramid.channels[-1]
        self.standardize = Standardize(channels) if standardize else nn.Identity()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies from the selected positions; a constant map keeps every position."""
        feature = features[STAGES - 1]
        response = feature.sum(dim=1, keepdim=True)
        selected = (response >= response.mean(dim=(2, 3), keepdim=True)).to(feature.dtype)
        embedding = (feature * selected).sum(dim=(2, 3)) / selected.sum(dim=(2, 3)).clamp_min(1.0)
        return Output(
            logits=self.classifier(self.standardize(embedding)),
            masks={"stage3": selected},
            mask_probabilities={"stage3": selected},
            embedding=embedding,
        )


@register_method(
    "scda",
    regime=Regime(train="class", select="class"),
    source="Wei, Luo, Wu, Zhou, IEEE TIP 2017, arXiv 1604.04994",
)
class SCDA(Method):
    """ERM on the positions where the backbone responds most: what a mask brings before anything is learned."""

    Config = SCDAConfig

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """Selected pooling and a linear layer."""
        standardize = frozen if self.config.standardize is None else self.config.standardize
        return SelectedPoolHead(pyramid, num_classes, standardize=standardize)

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Mean cross-entropy."""
        return F.cross_entropy(model(batch).logits, batch.label)

    def explain(self, output: Output) -> Tensor | None:
        """The selected positions."""
        return output.masks["stage3"][:, 0]
