"""Batch norms folded into the convolutions before them: the same function with a fifth less work, for evaluation."""

import copy
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aimbench.models.classifier import Classifier
from aimbench.models.global_norm import GlobalBatchNorm

_TOLERANCE = 1e-3
"""Of the logits' spread: float rounding through a deep network stays far below it, a wrong pair does not."""


def fold_batch_norms(model: Classifier, image: Tensor, mask: Tensor | None) -> Classifier:
    """A copy of a classifier in evaluation mode whose convolutions do what the batch norms behind them did.

    Which batch norm reads which convolution is seen by running the network once. The copy is checked on the same
    images; a network of which something else reads a convolution's output as well is returned as it is.

    Args:
        model: in evaluation mode; stays as it is.
        image: ``(N, 3, H, W)`` normalised, for the check.
        mask: ``(N, 1, H, W)`` ground truth, for heads that read it.

    Returns:
        The copy, or ``model`` itself.
    """
    with torch.no_grad():
        expected, pairs = _run_and_pair(model, image, mask)
        if not pairs:
            return model
        folded = copy.deepcopy(model)
        for norm_name, convolution_name in pairs.items():
            norm: Any = folded.get_submodule(norm_name)
            convolution: Any = folded.get_submodule(convolution_name)
            folded.set_submodule(convolution_name, fuse_conv_bn_eval(convolution, norm))
            folded.set_submodule(norm_name, _what_follows(norm))
        found = folded.predict(folded.features(image), mask).logits
    spread = float(expected.max() - expected.min())
    return folded if torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * spread) else model


def _what_follows(norm: nn.Module) -> nn.Module:
    """What a batch norm does behind its normalisation: some activate, too."""
    if isinstance(norm, GlobalBatchNorm):
        return norm.then
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _run_and_pair(model: Classifier, image: Tensor, mask: Tensor | None) -> tuple[Tensor, dict[str, str]]:
    """The logits, and for each batch norm that reads a convolution's output the name of that convolution."""
    made: list[tuple[Tensor, str]] = []
    pairs: dict[str, str] = {}
    calls: dict[str, int] = {}

    def note_output(name: str, output: Any) -> None:
        made.append((output, name))
        calls[name] = calls.get(name, 0) + 1

    def note_input(name: str, given: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        if made and made[-1][0] is given:
            pairs[name] = made[-1][1]

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _, __, output, name=name: note_output(name, output)))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d, GlobalBatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda _, given, name=name: note_input(name, given[0])))
    try:
        logits = model.predict(model.features(image), mask).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, {norm: source for norm, source in pairs.items() if calls[norm] == calls[source] == 1}
