"""MaskTune: hide what an ERM model looks at, and train on for one epoch (Asgari Taghanaki et al. 2022).

f = argmin mean CE(f(x), y)
a = XGradCAM of f at the predicted class, resized to the image, least value at 0
x_masked = x, black where a > mean + 2 std of the positive values of a
f' = f after one epoch on (x_masked, y), with the optimiser as ERM left it
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import (
    Batch,
    Classifier,
    ConfigError,
    FeaturePyramid,
    Loss,
    MethodConfig,
    Phase,
    Progress,
    Regime,
    Run,
    TrainConfig,
    register_method,
)

EPSILON = 1e-7


class MaskTuneConfig(ERMConfig):
    """Settings of MaskTune."""

    threshold: float = Field(2.0, ge=0)
    """Standard deviations above the mean of the positive heat from which pixels are hidden."""


@register_method(
    "masktune",
    regime=Regime(train="class", select="class"),
    source="Asgari Taghanaki et al., NeurIPS 2022, arXiv 2210.00055",
)
class MaskTune(ERM):
    """One more epoch for an ERM model, on training images whose most salient pixels are black."""

    Config = MaskTuneConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"schedule": "step"}

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._heat: Tensor | None = None

    def check_training(self, config: TrainConfig, *, compiled: bool) -> None:
        """Refuses a schedule that leaves no learning rate for the masked epoch."""
        super().check_training(config, compiled=compiled)
        if config.schedule == "cosine":
            raise ConfigError(
                "method 'masktune' goes on with the learning rate that ERM ended with, which is zero under"
                " --schedule cosine; use step or constant"
            )

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM; heat of its selected model on every training image; one epoch from its last model."""
        self._heat = None
        yield Phase("erm")
        self._heat = run.map_training("xgradcam", partial(xgradcam, image_size=run.config.image_size))
        yield Phase("masked", epochs=1, keep_optimizer=True, images=True, settings={"augment": False})

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Mean cross-entropy; in the second phase on masked images."""
        if self._heat is None:
            return super().loss(model, batch, progress)
        heat = self._heat[batch.index.cpu()].to(batch.image.device)
        hidden = hidden_pixels(heat, (batch.image.shape[-2], batch.image.shape[-1]), self.config.threshold)
        return F.cross_entropy(model(blackened(batch, hidden, model.pyramid)).logits, batch.label)


def xgradcam(model: Classifier, batch: Batch, image_size: int) -> Tensor:
    """XGradCAM (Fu et al. 2020) of the predicted class, ``(N, h, w)``, not negative, at S3's resolution.

    Each channel is weighted by its activation's share of the gradient: sum(gradient * activation) / sum(activation).

    Args:
        model: in evaluation mode.
        batch: images, or the maps of them that the head reads.
        image_size: side of the square network input.
    """
    with torch.no_grad():
        features = batch.features if batch.features is not None else model.features(batch.image)
    last = features[-1].detach().requires_grad_()
    logits = model.predict([*features[:-1], last]).logits
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), last)
    activation = last.detach()
    if model.pyramid.is_token_grid:
        image = activation.new_empty(1, 3, image_size, image_size)  # of its size alone
        activation, gradient = (model.pyramid.token_map(tokens, image) for tokens in (activation, gradient))
    total = activation.sum(dim=(2, 3), keepdim=True)
    weight = (gradient * activation / (total + EPSILON)).sum(dim=(2, 3), keepdim=True)
    return (weight * activation).sum(dim=1).relu()


def hidden_pixels(heat: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Pixels ``(N, H, W)`` whose heat exceeds mean + threshold * std of the image's positive heat.

    Args:
        heat: ``(N, h, w)``, not negative.
        size: H and W of the image.
        threshold: in standard deviations (of the population).
    """
    lowest = heat.amin(dim=(1, 2), keepdim=True)
    resized = F.interpolate((heat - lowest)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    positive = resized > 0
    count = positive.sum(dim=(1, 2)).clamp(min=1)
    mean = resized.sum(dim=(1, 2)) / count
    spread = torch.where(positive, (resized - mean[:, None, None]) ** 2, 0).sum(dim=(1, 2)) / count
    return resized > (mean + threshold * spread.sqrt())[:, None, None]


def blackened(batch: Batch, hidden: Tensor, pyramid: FeaturePyramid) -> Batch:
    """The batch's images with the pixels ``hidden`` ``(N, H, W)`` black, as the network is given it."""
    mean, std = (batch.image.new_tensor(values)[:, None, None] for values in (pyramid.mean, pyramid.std))
    return Batch(batch.index, batch.label, image=torch.where(hidden[:, None], -mean / std, batch.image))
