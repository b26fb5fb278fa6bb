"""Attention rollout: how much each token of a Vision Transformer reaches its output."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aimbench.errors import DataError


def attention_rollout(attentions: Sequence[Tensor], *, class_token: bool) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020).

    Heads are averaged, the residual connection counts as half the identity, and
    the blocks' matrices are multiplied from the first to the last. The map does
    not depend on the class: it says what the backbone passed on.

    Args:
        attentions: Of each block in order, (N, heads, T, T), rows sum to 1.
        class_token: Whether the first token is the one that classifies; else the mean over all tokens counts.

    Returns:
        (N, T) float32, not negative, rows sum to 1: each token's share in the output.

    Raises:
        DataError: If there is no block, or the shapes differ.
    """
    if not attentions or any(a.dim() != 4 or a.shape[-1] != a.shape[-2] for a in attentions):
        shapes = [tuple(a.shape) for a in attentions]
        raise DataError(f"attention rollout: attentions {shapes}; give (N, heads, T, T) of at least one block")
    if len({(a.shape[0], a.shape[-1]) for a in attentions}) > 1:
        shapes = [tuple(a.shape) for a in attentions]
        raise DataError(f"attention rollout: blocks differ in images or tokens, {shapes}; give those of one network")
    identity = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    rollout = identity.expand(len(attentions[0]), -1, -1)
    for attention in attentions:
        rollout = (0.5 * attention.float().mean(dim=1) + 0.5 * identity) @ rollout
    return rollout[:, 0] if class_token else rollout.mean(dim=1)
