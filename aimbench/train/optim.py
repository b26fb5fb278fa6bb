"""What is trained, how fast, and by which optimiser."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid
from aimbench.models.classifier import Classifier
from aimbench.train.config import TrainConfig


def set_trainable(model: Classifier, train: str) -> None:
    """Freezes what ``train`` (``head``, ``last`` or ``all``) leaves out."""
    model.requires_grad_(True)
    for pyramid in backbones(model):
        if train != "all":
            pyramid.requires_grad_(False)
        if train == "last":
            for module in last_stage(pyramid):
                module.requires_grad_(True)


def set_train_mode(model: Classifier) -> None:
    """Training mode, except that frozen modules keep evaluating (batch norm keeps its statistics)."""
    model.train()
    for pyramid in backbones(model):
        if not any(parameter.requires_grad for parameter in pyramid.parameters()):
            pyramid.eval()
            continue
        for module in pyramid.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()


def backbones(model: Classifier) -> list[FeaturePyramid]:
    """The backbone, and those that a method's head brings along (LfF trains two networks)."""
    return [module for module in model.modules() if isinstance(module, FeaturePyramid)]


def last_stage(pyramid: FeaturePyramid) -> list[nn.Module]:
    """The modules that make S3, or the last quarter of a plain ViT's blocks, with what follows them.

    Raises:
        ConfigError: timm does not say which modules those are.
    """
    network = pyramid.network
    children = dict(network.named_children())
    if pyramid.is_token_grid:
        blocks = list(children["blocks"].children())
        modules = blocks[-max(1, len(blocks) // 4) :]
        return modules + [children[n] for n in ("norm", "fc_norm") if n in children]
    if "layer4" in children:
        return [children["layer4"]]
    # timm names the module that ends a stride, e.g. "blocks.4": what comes after stride 16 makes S3.
    entries: Any = network.feature_info
    ends = [e["module"] for e in (entries if isinstance(entries, list) else entries.info) if e["reduction"] == 16]
    container, _, number = ends[-1].partition(".") if ends else ("", "", "")
    if not number.isdigit():
        raise ConfigError(f"--train last is not known for backbone '{pyramid.name}'; give head or all")
    tail = [children[n] for n in ("conv_head", "norm_head", "bn2", "norm_pre", "norm", "head") if n in children]
    return list(children[container].children())[int(number) + 1 :] + tail


def make_optimizer(model: Classifier, config: TrainConfig, head_factors: Mapping[str, float]) -> Optimizer:
    """One parameter group for each learning rate and decay; ``base_lr`` in a group is its peak rate.

    Args:
        model: with ``set_trainable`` applied.
        config: optimiser, rates and decay.
        head_factors: factors on the head's rate by prefix of parameter names.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    in_backbones = {id(parameter) for pyramid in backbones(model) for parameter in pyramid.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in in_backbones:
            rate = config.backbone_lr
        else:
            local = name.removeprefix("head.")
            factors = [factor for prefix, factor in head_factors.items() if local.startswith(prefix)]
            rate = config.lr * (factors[0] if factors else 1.0)
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    options = [{"params": p, "lr": r, "base_lr": r, "weight_decay": d} for (r, d), p in groups.items()]
    # One kernel for all parameters. It would unscale half-precision gradients itself, after they were to be clipped.
    on_gpu = any(parameter.is_cuda for parameters in groups.values() for parameter in parameters)
    fused = True if on_gpu and config.precision != "16-mixed" else None
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=config.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(options, lr=config.lr, fused=fused)


def set_learning_rate(optimizer: Optimizer, config: TrainConfig, step: int, steps: int, steps_per_epoch: int) -> None:
    """Sets each group's rate for ``step`` of ``steps``: a pure function, so resuming needs no schedule state."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        factor = (step + 1) / warmup
    elif config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "step":
        factor = 0.5 ** (4 * step // steps)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
