"""Binary decisions with a gradient (binary Gumbel-softmax, straight-through; Jang et al. 2017)."""

import torch
from torch import Tensor

from aimbench.train.api import uniform_like


def binary_gumbel(logits: Tensor, temperature: float, *, sample: bool) -> Tensor:
    """Opens or closes each position.

    The difference of two Gumbel variables is logistic, so one logistic noise
    term is enough for two classes.

    Args:
        logits: any shape; positive means open.
        temperature: of the relaxation, above 0.
        sample: draw with noise (training); else open exactly where ``logits > 0``.

    Returns:
        0 or 1, shaped like ``logits``. When sampling, the gradient is that of
        ``sigmoid((logits + noise) / temperature)``.
    """
    if not sample:
        return (logits > 0).to(logits.dtype)
    uniform = uniform_like(logits).clamp_(1e-6, 1 - 1e-6)
    noise = torch.log(uniform) - torch.log1p(-uniform)
    soft = torch.sigmoid((logits + noise) / temperature)
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly zero, so values are exactly 0 and 1
