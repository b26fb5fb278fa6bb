"""Attributions that average the input's gradient over many points: integrated gradients and SmoothGrad.

Each point costs one forward and one backward pass of the whole batch.
"""

import numpy as np
import torch
from torch import Tensor

from aimbench.errors import ConfigError
from aimbench.metrics.attribution import OutputT, PyramidClassifier, check_eval_mode


def integrated_gradients(
    model: PyramidClassifier[OutputT], image: Tensor, target: Tensor, *, steps: int = 32
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from the mean colour to each image.

    The baseline is zero in the normalised input, the mean colour of the training
    images of the backbone. The path integral is taken by Gauss-Legendre quadrature.

    Args:
        model: Classifier in eval mode.
        image: (N, C, H, W) normalised network input.
        target: (N,) class indices whose logit is explained.
        steps: Points on the path, at least 1.

    Returns:
        (N, H, W) float32, signed, summed over the colour channels. The sum over the pixels
        approaches the logit of the image minus that of the baseline, unless the model decides something on the way
        that has no gradient, such as a mask that is open or closed: what that decision did is then missing.

    Raises:
        ConfigError: If the model is in training mode, or ``steps`` is below 1.
    """
    _check(model, steps)
    # Nodes in [-1, 1], weights that sum to 2: brought to the path's [0, 1].
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(image, dtype=torch.float32)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * _input_gradient(model, float(node) * image, target)
    return (image.float() * total).sum(dim=1)


def smoothgrad(
    model: PyramidClassifier[OutputT],
    image: Tensor,
    target: Tensor,
    *,
    copies: int = 16,
    noise_level: float = 0.15,
    seed: int = 0,
) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017): the size of the gradient averaged over noisy copies of each image.

    The noise is drawn once a copy and shared by the images of a batch, scaled to
    each one's range, so that a map does not depend on the batch it came in.

    Args:
        model: Classifier in eval mode.
        image: (N, C, H, W) normalised network input.
        target: (N,) class indices whose logit is explained.
        copies: Noisy copies, at least 1.
        noise_level: Standard deviation of the noise as a share of the image's range (largest minus
            smallest value).
        seed: Of the noise.

    Returns:
        (N, H, W) float32, not negative: the mean gradient's absolute value, summed over the colour channels.

    Raises:
        ConfigError: If the model is in training mode, or ``copies`` is below 1.
    """
    _check(model, copies)
    generator = torch.Generator().manual_seed(seed)
    low, high = image.flatten(1).min(dim=1).values, image.flatten(1).max(dim=1).values
    deviation = (noise_level * (high - low))[:, None, None, None]
    total = torch.zeros_like(image, dtype=torch.float32)
    for _ in range(copies):
        noise = torch.randn(image.shape[1:], generator=generator).to(image)
        total += _input_gradient(model, image + deviation * noise, target)
    return (total / copies).abs().sum(dim=1)


def _input_gradient(model: PyramidClassifier[OutputT], image: Tensor, target: Tensor) -> Tensor:
    # A clone made outside inference mode can be part of a graph even if the image cannot.
    with torch.inference_mode(False), torch.enable_grad():
        image = image.clone().detach().requires_grad_()
        logits = model.predict(model.features(image)).logits
        (gradient,) = torch.autograd.grad(logits.gather(1, target.clone()[:, None]).sum(), image)
    return gradient.float()


def _check(model: object, points: int) -> None:
    check_eval_mode(model)
    if points < 1:
        raise ConfigError(f"attribution: {points} points to average the gradient over; give at least 1")
