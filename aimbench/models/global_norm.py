"""Batch norm whose statistics are those of the whole batch, when several processes share it.

torch's own ``SyncBatchNorm`` refuses the CPU; this one is the same on every device, so that what the tests show on a
CPU is what a GPU runs. It takes two sums over processes a layer: the mean, then the deviations from it.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum over all processes; each receives the gradients of all."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total: Tensor = _Sum.apply(value)
    return total


class _Sum(torch.autograd.Function):
    """All processes' tensors summed; the gradient of a sum of all their losses is summed likewise."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(_BatchNorm):
    """``(N, C, ...)`` normalised per channel by the batch's statistics over all processes; N may be 0 in some.

    Args:
        like: the layer that it replaces; its parameters and buffers are taken over. timm's layers that also
            activate are replaced with their activation.
    """

    def __init__(self, like: _BatchNorm) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self.weight, self.bias = like.weight, like.bias
        for name, buffer in like.named_buffers(recurse=False):
            setattr(self, name, buffer)
        then = [getattr(like, name) for name in ("drop", "act") if isinstance(getattr(like, name, None), nn.Module)]
        self.then = nn.Sequential(*then)
        self.train(like.training)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as ``x``."""
        normalised = self._by_batch(x) if self.training else super().forward(x)
        activated: Tensor = self.then(normalised)
        return activated

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def _by_batch(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        values = x.float()
        here = values.new_full((1,), values.numel() / values.shape[1])
        sums = sum_over_processes(torch.cat([values.sum(dim=axes), here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(dim=axes)) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards those of the batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_(variance.to(self.running_var), weight)

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Replaces every batch norm inside ``module``; names of parameters and buffers stay."""
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, cls):
                setattr(module, name, cls(child))
            else:
                cls.replace_in(child)
