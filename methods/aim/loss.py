"""AIM's objective: every classifier's cross-entropy, and the active-area term with its annealed target."""

import torch
from torch import Tensor
from torch.nn import functional as F

from aimbench.methods.aim.config import MaskingConfig
from aimbench.train.api import Output, Progress, batch_mean


def epochs_of(share: float, epochs: int) -> float:
    """That share of the epochs: 0.28 of 25 is 7, where the product of the two is a little more."""
    return round(share * epochs, 9)


def target_area(config: MaskingConfig, progress: Progress) -> float:
    """Tau of this epoch: from 1, linearly epoch by epoch, to ``active_area``, then constant.

    The last epoch has ``active_area`` at the latest; a training of one epoch stays at 1.
    """
    if not config.anneal:
        return config.active_area
    last = max(1.0, min(epochs_of(config.anneal_fraction, progress.epochs), progress.epochs - 1))
    return 1.0 - (1.0 - config.active_area) * min(1.0, progress.epoch / last)


def temperature(config: MaskingConfig, progress: Progress) -> float:
    """Gumbel temperature of this step: constant, or linear towards its final value."""
    if config.final_temperature is None:
        return config.temperature
    done = progress.step / max(1, progress.steps - 1)
    return config.temperature + (config.final_temperature - config.temperature) * done


def is_noisy(config: MaskingConfig, progress: Progress) -> bool:
    """Whether masks are sampled in this epoch."""
    return progress.epoch < epochs_of(config.noise_until, progress.epochs)


def area_loss(masks: dict[str, Tensor], target: float, over: str) -> Tensor:
    """Sum over stages of (share of active positions - target) squared.

    Args:
        masks: ``(N, 1, h, w)`` a stage, in {0, 1}.
        target: tau, in [0, 1].
        over: ``batch`` compares the batch's mean share, ``image`` each image's.
    """
    terms = []
    for mask in masks.values():
        share = batch_mean(mask) if over == "batch" else mask.mean(dim=(1, 2, 3))
        terms.append(((share - target) ** 2).mean())
    return torch.stack(terms).sum()


def aim_loss(output: Output, label: Tensor, config: MaskingConfig, progress: Progress) -> dict[str, Tensor]:
    """``sum_l CE_l + lambda * sum_l (r_l - tau)^2``, and what the progress line shows."""
    classification = torch.stack([F.cross_entropy(logits, label) for logits in output.stage_logits.values()]).sum()
    values = {"loss": classification, "ce": classification}
    if output.masks:
        target = target_area(config, progress)
        values["loss"] = classification + config.area_weight * area_loss(output.masks, target, config.area_over)
        for name, mask in output.masks.items():
            values[f"{name} active"] = mask.mean()
    return values
