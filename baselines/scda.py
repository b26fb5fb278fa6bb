"""Selective convolutional descriptor aggregation: a mask that is computed, not learned. A control for learned masks."""

from torch import Tensor, nn

from aimbench.baselines.erm import ERM
from aimbench.train.api import STAGES, FeaturePyramid, Head, Output, Regime, Standardize, register_method


class SelectedPoolHead(Head):
    """A linear layer on S3 averaged over the positions that respond more than the image's mean."""

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, standardize: bool) -> None:
        super().__init__()
        self.stages = (STAGES - 1,)
        self._embed_mean = pyramid.embed_mean  # a bound method, so that the pyramid is not registered twice
        self.standardize = Standardize(pyramid.embed_dim) if standardize else nn.Identity()
        self.classifier = nn.Linear(pyramid.embed_dim, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies from the selected positions; a constant map keeps every position."""
        feature = features[STAGES - 1]
        response = feature.sum(dim=1, keepdim=True)
        selected = (response >= response.mean(dim=(2, 3), keepdim=True)).to(feature.dtype)
        masked = feature * selected
        embedding = self._embed_mean(masked.sum(dim=(2, 3)) / selected.sum(dim=(2, 3)).clamp_min(1.0))
        return Output(
            logits=self.classifier(self.standardize(embedding)),
            masks={"stage3": selected},
            embedding=embedding,
            last_map=masked,
        )


@register_method(
    "scda",
    regime=Regime(train="class", select="class"),
    source="Wei, Luo, Wu, Zhou, IEEE TIP 2017, arXiv 1604.04994",
)
class SCDA(ERM):
    """ERM on the positions where the backbone responds most: what a mask brings before anything is learned."""

    splits_batches = True

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """Selected pooling and a linear layer.

        Raises:
            ConfigError: the backbone's last map is normalised, so that no position responds more than others.
        """
        pyramid.check_energy("method 'scda' is undefined on it")
        return SelectedPoolHead(pyramid, num_classes, standardize=self.standardizes(frozen=frozen))

    def explain(self, output: Output) -> Tensor | None:
        """The selected positions."""
        return output.masks["stage3"][:, 0]
