"""GALS: gradients of the loss outside a given map are penalised (Petryk et al. 2022).

    g = d(mean CE) / dx;   loss = CE + weight * mean |g - g * A|,   A in [0, 1]

The source takes A from CLIP's attention. Here the ground truth, a mask or boxes, stands in for it: A = 1 on the object.
"""

from pydantic import Field
from torch import Tensor, autograd
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import (
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    Loss,
    Output,
    Progress,
    Regime,
    register_method,
)


class GALSConfig(ERMConfig):
    """Settings of GALS."""

    weight: float = Field(10_000.0, ge=0)
    """Of the gradient outside the object."""


class GuidedERM(ERM):
    """ERM whose head is handed the backbone's maps, where a gradient has a place, and not their pooled embedding."""

    differentiates_gradients = True

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """ERM's head on the maps."""
        head = super().build(pyramid, num_classes, frozen=frozen)
        head.embedding_only = False
        return head


@register_method(
    "gals",
    regime=Regime(train="masks", select="class"),
    source="Petryk, Dunlap, Nasseri, Gonzalez, Darrell, Rohrbach, CVPR 2022, arXiv 2202.08926",
)
class GALS(GuidedERM):
    """Gradient outside the object penalised by its L1 norm; ground truth stands in for CLIP's attention maps."""

    Config = GALSConfig

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy plus the mean absolute gradient outside the object, over samples that have ground truth."""
        view = GuidedView(model, batch)
        entropy = F.cross_entropy(view.output.logits, batch.label)
        of_sample = (view.gradient_of(entropy) * view.outside).abs().mean(dim=(1, 2, 3))
        outside = of_sample.sum() / view.known.sum().clamp(min=1)
        return {"loss": entropy + self.config.weight * outside, "cross_entropy": entropy, "outside": outside}


class GuidedView:
    """A batch passed through the model so that the gradient at its input can be penalised.

    With images, the input is the image. With cached features it is S3, and the gradient is multiplied by S3 and
    summed over channels: on an average-pooled map the gradient alone is the same at every position, so where it lies
    could not be guided.

    Attributes:
        output: what the model says.
        known: ``(N, 1, 1, 1)`` in {0, 1}, whether the sample has ground truth.
        outside: ``(N, 1, h, w)`` in [0, 1], the share of each position that is not the object; 0 for a sample
            without ground truth.
    """

    def __init__(self, model: Classifier, batch: Batch) -> None:
        self._model = model
        self._batch = batch
        if batch.features is None:
            self._input = batch.image.detach().requires_grad_()
            seen = Batch(batch.index, batch.label, image=self._input)
        else:
            *finer, last = batch.features
            self._input = last.detach().requires_grad_()
            seen = Batch(batch.index, batch.label, features=[*finer, self._input])
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            self.output: Output = model(seen)
        size = self._map(self._input.detach()).shape[-2:]
        self.known: Tensor = batch.mask.amax(dim=(1, 2, 3), keepdim=True)
        self.outside: Tensor = (1 - F.adaptive_avg_pool2d(batch.mask, (size[0], size[1]))) * self.known

    def gradient_of(self, value: Tensor) -> Tensor:
        """Gradient of a scalar at the input, itself differentiable: ``(N, 3, H, W)``, or ``(N, 1, h, w)`` of S3."""
        (gradient,) = autograd.grad(value, self._input, create_graph=True)
        if self._batch.features is None:
            return gradient
        return self._map(gradient * self._input).sum(dim=1, keepdim=True)

    def _map(self, value: Tensor) -> Tensor:
        """``(N, C, h, w)``; tokens of a plain ViT are laid out on their grid."""
        if value.dim() == 4:
            return value
        return self._model.pyramid.token_map(value, self._batch.mask)
