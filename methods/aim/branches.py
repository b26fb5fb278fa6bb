"""Feature branches of a stage: what the classifiers read under the mask."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TopDownBranch(nn.Module):
    """``T_l = conv3x3(conv1x1(S_l))``: the paper's top-down features, ``width`` channels."""

    def __init__(self, channels: int, width: int, *, start: Literal["random", "identity"]) -> None:
        super().__init__()
        self.channels = width
        self.lateral = nn.Conv2d(channels, width, 1)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        if start == "identity":
            nn.init.dirac_(self.smooth.weight)
            nn.init.zeros_(self.smooth.bias)  # type: ignore[arg-type]

    def masked_map(self, feature: Tensor, binary: Tensor) -> Tensor:
        """``O_l = T_l * B_l``, ``(N, d, h, w)``."""
        masked: Tensor = self.smooth(self.lateral(feature)) * binary
        return masked

    def masked_mean(self, feature: Tensor, binary: Tensor) -> Tensor:
        """The mean of ``O_l`` over all positions, ``(N, d)``, without computing the map.

        Both convolutions are linear, so the mean may be taken before them: for
        each of the nine offsets k of the 3x3 kernel, the backbone's features
        are summed with the mask shifted by k, and the weights are applied to
        nine vectors an image rather than to every position.
        """
        positions = binary.shape[-2] * binary.shape[-1]
        shifted = F.unfold(binary, 3, padding=1).flip(1)  # (N, 9, h * w): the mask moved by -k
        sums = torch.bmm(feature.flatten(2), shifted.transpose(1, 2)) / positions  # (N, C, 9)
        lateral = torch.einsum("dc,nck->ndk", self.lateral.weight.flatten(1), sums)
        if self.lateral.bias is not None:
            lateral = lateral + self.lateral.bias[None, :, None] * shifted.mean(dim=2)[:, None, :]
        mean = torch.einsum("odk,ndk->no", self.smooth.weight.flatten(2), lateral)
        if self.smooth.bias is not None:
            mean = mean + self.smooth.bias * binary.mean(dim=(2, 3))
        return mean


class BackboneBranch(nn.Module):
    """``T_l = S_l``: the backbone's own map, so that nothing but the mask parts the classifier from ERM's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def masked_map(self, feature: Tensor, binary: Tensor) -> Tensor:
        """``O_l = S_l * B_l``, ``(N, C, h, w)``."""
        return feature * binary

    def masked_mean(self, feature: Tensor, binary: Tensor) -> Tensor:
        """The mean of ``O_l`` over all positions, ``(N, C)``."""
        positions = binary.shape[-2] * binary.shape[-1]
        return torch.bmm(feature.flatten(2), binary.flatten(2).transpose(1, 2))[:, :, 0] / positions


def energy(feature: Tensor) -> Tensor:
    """Feature energy of each position, standardised within the image: ``(N, 1, h, w)``, mean 0, deviation 1.

    The log of the root mean square over channels. A pretrained network responds
    to objects more than to their surroundings, which is enough to find a bird
    without any label: Wei et al. 2017, "Selective Convolutional Descriptor
    Aggregation", take the sum over channels in the same role.
    """
    strength = feature.float().pow(2).mean(dim=1, keepdim=True).clamp_min(1e-12).log() / 2
    mean = strength.mean(dim=(2, 3), keepdim=True)
    deviation = strength.std(dim=(2, 3), keepdim=True, unbiased=False)
    return ((strength - mean) / deviation.clamp_min(1e-6)).to(feature.dtype)
