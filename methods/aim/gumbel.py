"""Binary decisions with a gradient (binary Gumbel-softmax, straight-through; Jang et al. 2017)."""

import torch
from torch import Tensor, nn

from aimbench.train.api import uniform_like


def binary_gumbel(logits: Tensor, temperature: float, *, noise: bool = True) -> Tensor:
    """Opens or closes each position, with the gradient of ``sigmoid((logits + noise) / temperature)``.

    The difference of two Gumbel variables is logistic, so one logistic noise
    term is enough for two classes.

    Args:
        logits: any shape; positive means open.
        temperature: of the relaxation, above 0.
        noise: draw; without it a position is open exactly where its logit is positive.

    Returns:
        0 or 1, shaped like ``logits``.
    """
    dtype = logits.dtype
    # In half precision a logit of 6 would never close, drawn or by its gradient: no noise so large, a sigmoid of 1.
    logits = logits.to(torch.promote_types(dtype, torch.float32))
    if noise:
        uniform = uniform_like(logits).clamp_(1e-6, 1 - 1e-6)
        logits = logits + torch.log(uniform) - torch.log1p(-uniform)
    soft = torch.sigmoid(logits / temperature)
    hard = (logits > 0).to(soft.dtype)
    return (hard + (soft - soft.detach())).to(dtype)  # the bracket is exactly zero, so values are exactly 0 and 1


def decided(logits: Tensor) -> Tensor:
    """The mask of evaluation: 1 exactly where a logit is positive, else 0, without a gradient."""
    return (logits > 0).to(logits.dtype)


class Gate(nn.Module):
    """Mask logits to masks: drawn or decided with a gradient in training, decided in evaluation. It learns nothing.

    Attributes:
        temperature: of the relaxation, above 0.
        noise: whether masks are drawn in training.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.noise = True

    def forward(self, logits: Tensor) -> Tensor:
        """0 or 1, shaped like ``logits``."""
        return binary_gumbel(logits, self.temperature, noise=self.noise) if self.training else decided(logits)
