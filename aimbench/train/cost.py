"""What a run costs: parameters, multiply-accumulates, seconds, memory."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aimbench.models.classifier import Classifier
from aimbench.record import Cost
from aimbench.train.environment import peak_memory_mb


def cost(model: Classifier, image_size: int, *, seconds: float, step_seconds: float = 0.0, images: int = 0) -> Cost:
    """The record's account of a run.

    Args:
        model: trained, or as it is: then no parameter asks for a gradient.
        image_size: side of its input, in pixels.
        seconds: of the whole run.
        step_seconds: of training steps alone; 0 if there were none.
        images: that these steps saw.
    """
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        gmacs=gmacs(model, image_size),
        wall_seconds=round(seconds, 2),
        train_images_per_second=round(images / step_seconds, 2) if step_seconds else None,
        peak_memory_mb=round(peak_memory_mb(next(model.parameters()).device), 1),
    )


def gmacs(model: Classifier, image_size: int) -> float:
    """Multiply-accumulates of one image's forward pass, in 1e9."""
    device = next(model.parameters()).device
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    mask = torch.ones(1, 1, image_size, image_size, device=device) if model.head.reads_mask else None
    model.eval()
    # The counter knows attention's fused kernels on a GPU only; as plain products it counts them anywhere.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.predict(model.features(image), mask)
    return round(float(counter.get_total_flops()) / 2e9, 4)
