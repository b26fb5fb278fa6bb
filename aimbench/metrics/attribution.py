"""Post-hoc attributions of a whole batch out of one forward and one backward pass."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from aimbench.errors import ConfigError


class HasLogits(Protocol):
    """What a classifier says of a batch; more may be attached.

    A ``last_map`` (N, C, h, w) is what the classifier pools in place of the last feature map, under its mask for
    instance; GradCAM then reads it.
    """

    @property
    def logits(self) -> Tensor:
        """(N, K) class scores."""
        ...


OutputT = TypeVar("OutputT", bound=HasLogits, covariant=True)


class PyramidClassifier(Protocol[OutputT]):
    """A classifier in two steps, with its feature maps between them."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps of (N, C, H, W) images, fine to coarse; GradCAM reads the last."""
        ...

    def predict(self, features: list[Tensor]) -> OutputT:
        """Classifies the feature maps."""
        ...


def single_pass_attributions(
    model: PyramidClassifier[OutputT],
    image: Tensor,
    target: Tensor,
    *,
    token_map: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], OutputT]:
    """GradCAM, GradCAM++ and input x gradient of every image at once.

    All explain the logit of ``target``: the true class, whether it was
    predicted or not. In eval mode the samples of a batch are independent, so the
    gradient of the summed logits is each sample's own gradient.

    GradCAM (Selvaraju et al. 2017): channels of the last map weighted by the
    spatial mean of their gradient, summed, negative parts dropped. GradCAM++
    (Chattopadhyay et al. 2018, eq. 19 for an exponential score): the same with the
    positive gradients weighted by position. Input x
    gradient (Shrikumar et al. 2016): image times its gradient, summed over the
    colour channels, signed; the image is the *normalised* network input, so a
    pixel of the mean colour gets 0.

    Gradients are taken with respect to the image and the last map alone:
    parameters get no ``.grad``, may be frozen, and the call works under
    ``torch.no_grad`` and ``torch.inference_mode``.

    Args:
        model: Classifier in eval mode.
        image: (N, C, H, W) normalised network input.
        target: (N,) class indices, the true classes.
        token_map: For models whose last features are tokens (N, T, C): turns tokens and
            images into maps (N, C, h, w), class token dropped.

    Returns:
        maps: ``gradcam`` and ``gradcam_plus_plus`` (N, h, w) float32, not negative, at the
            feature map's resolution; ``input_x_gradient`` (N, H, W) float32, signed.
        output: What ``model.predict`` returned. Its graph is used up: detach what is kept.

    Raises:
        ConfigError: If the model is in training mode, its features carry no gradient, its
            logits do not depend on the last map, or token features come without ``token_map``.
    """
    check_eval_mode(model)
    # A clone made outside inference mode can be part of a graph even if the image cannot.
    with torch.inference_mode(False), torch.enable_grad():
        image = image.clone().detach().requires_grad_()
        features = model.features(image)
        last = features[-1]
        if not last.requires_grad:
            raise ConfigError(
                "attribution: the last feature map carries no gradient; "
                "compute features from images, without no_grad or a feature cache"
            )
        output = model.predict(features)
        made_by_head: Tensor | None = getattr(output, "last_map", None)
        last = last if made_by_head is None else made_by_head
        score = output.logits.gather(1, target.clone()[:, None]).sum()
        image_gradient, last_gradient = torch.autograd.grad(score, [image, last], allow_unused=True)
    if image_gradient is None or last_gradient is None:
        raise ConfigError(
            "attribution: the logits do not depend on the last feature map; "
            "have features() end with the one that predict() reads"
        )
    image, activation = image.detach(), last.detach()
    if activation.dim() == 3:
        if token_map is None:
            raise ConfigError("attribution: the last features are tokens (N, T, C); give token_map")
        activation, last_gradient = token_map(activation, image), token_map(last_gradient, image)
    activation, last_gradient = activation.float(), last_gradient.float()
    maps = {
        "gradcam": _gradcam(activation, last_gradient),
        "gradcam_plus_plus": _gradcam_plus_plus(activation, last_gradient),
        "input_x_gradient": (image.float() * image_gradient.float()).sum(dim=1),
    }
    return maps, output


def _gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    return (weight * activation).sum(dim=1).relu()


def _gradcam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Equation 19 divided by the squared gradient: 1 / (2 + sum(A) g), which does not underflow.

    The paper's maps follow a ReLU. Of others the positive part is summed, so that no weight is negative.
    """
    total = activation.relu().sum(dim=(2, 3), keepdim=True)
    positive = gradient.relu()
    weight = (positive / (2 + total * positive)).sum(dim=(2, 3), keepdim=True)
    return (weight * activation).sum(dim=1).relu()


def check_eval_mode(model: object) -> None:
    """Raises ConfigError if the model is in training mode, where the samples of a batch mix."""
    if getattr(model, "training", False):
        raise ConfigError("attribution: the model is in training mode, where samples mix; call model.eval()")
