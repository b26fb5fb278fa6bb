"""The attributions that a run may be scored by, computed for one batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from aimbench.errors import ConfigError, nearest_names
from aimbench.metrics.attribution import single_pass_attributions
from aimbench.metrics.averaged_gradients import integrated_gradients, smoothgrad
from aimbench.metrics.rollout import attention_rollout
from aimbench.models.backbones import FeaturePyramid
from aimbench.models.classifier import Classifier, Output
from aimbench.train.method import Method

SINGLE_PASS = ("gradcam", "gradcam_plus_plus", "input_x_gradient")
"""Out of one forward and one backward pass together."""
DEFAULT = ("gradcam", "input_x_gradient")


@dataclass(frozen=True)
class Maps:
    """Attributions of one batch: maps ``(N, h, w)`` by name, and what the model said."""

    maps: dict[str, Tensor]
    output: Output


class ClassifierView:
    """A classifier as attributions see it, with the ground truth that its head may be entitled to.

    Args:
        model: in evaluation mode.
        mask: ``(N, 1, H, W)`` ground truth, for heads that read it.
    """

    def __init__(self, model: Classifier, mask: Tensor | None) -> None:
        self._model = model
        self._mask = mask
        self.training = model.training

    def features(self, image: Tensor) -> list[Tensor]:
        """The pyramid of ``(N, 3, H, W)`` images."""
        return self._model.features(image)

    def predict(self, features: list[Tensor]) -> Output:
        """Classifies the pyramid."""
        return self._model.predict(features, self._mask)


def attribute(
    model: Classifier,
    method: Method,
    image: Tensor,
    label: Tensor,
    mask: Tensor | None = None,
    *,
    names: Sequence[str] = DEFAULT,
) -> Maps:
    """The named attributions and the method's own map, called ``mask``.

    Args:
        model: in evaluation mode.
        method: for its own map.
        image: ``(N, 3, H, W)`` normalised.
        label: ``(N,)`` true classes, which the attributions explain.
        mask: ``(N, 1, H, W)`` ground truth, for methods that are entitled to it.
        names: see ``check_attributions``. Those of ``SINGLE_PASS`` cost one forward and one backward pass together.
    """
    view = ClassifierView(model, mask)
    with _constant_parameters(model):
        found, output = single_pass_attributions(
            view, image, label, token_map=model.pyramid.token_map if model.pyramid.is_token_grid else None
        )
        maps = {
            name: found[name] if name in found else _FURTHER[name](view, model.pyramid, image, label) for name in names
        }
    own = method.explain(output)
    if own is not None:
        maps["mask"] = own.detach()
    return Maps(maps, output)


@contextmanager
def _constant_parameters(model: Classifier) -> Iterator[None]:
    """Parameters need no gradient in here; what they would keep for it costs a fifth of the time."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def check_attributions(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names without repetition, in a fixed order.

    Raises:
        ConfigError: one is unknown.
    """
    known = (*SINGLE_PASS, *_FURTHER)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown attribution '{name}': {nearest_names(name, known)}")
    return tuple(name for name in known if name in names)


def check_defined(names: Sequence[str], pyramid: FeaturePyramid) -> None:
    """Checks that a network has what the attributions read.

    Raises:
        ConfigError: attention is asked of a network that has none.
    """
    if "attention_rollout" in names and not pyramid.has_attention:
        raise ConfigError(
            f"attention_rollout is not defined for backbone '{pyramid.name}', which has no attention over a token grid;"
            " leave it out, or choose a ViT"
        )


def _integrated_gradients(view: ClassifierView, _: FeaturePyramid, image: Tensor, label: Tensor) -> Tensor:
    return integrated_gradients(view, image, label)


def _smoothgrad(view: ClassifierView, _: FeaturePyramid, image: Tensor, label: Tensor) -> Tensor:
    return smoothgrad(view, image, label)


def _rollout(_: ClassifierView, pyramid: FeaturePyramid, image: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        share = attention_rollout(pyramid.attention(image), class_token=pyramid.has_class_token)
    return pyramid.token_map(share[:, :, None], image)[:, 0]


_FURTHER: dict[str, Callable[[ClassifierView, FeaturePyramid, Tensor, Tensor], Tensor]] = {
    "integrated_gradients": _integrated_gradients,
    "smoothgrad": _smoothgrad,
    "attention_rollout": _rollout,
}
