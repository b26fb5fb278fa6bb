"""Is a method's mask alive? Open everywhere, closed everywhere, or blind to the image."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from aimbench.errors import DataError

OPEN = 0.5
"""A mask position counts as active above this value."""


class MaskHealth:
    """Accumulates the health of every stage's mask over batches.

    Right under several processes, provided that each saw at least one batch.
    """

    def __init__(self) -> None:
        self._stages: dict[str, _StageHealth] = {}

    def update(self, masks: Mapping[str, Tensor], region: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            masks: Masks by stage name (such as ``stage3``), (N, 1, h, w) in [0, 1]; a
                position is active above ``OPEN``.
            region: (N, H, W) or (N, 1, H, W) ground truth in [0, 1] or bool, or None.
                Samples whose region is empty have no ground truth.

        Raises:
            DataError: If a mask is not (N, 1, h, w), or its size differs from earlier batches'.
        """
        for name, mask in masks.items():
            if mask.dim() != 4 or mask.shape[1] != 1:
                raise DataError(f"mask health: mask '{name}' has shape {tuple(mask.shape)}, not (N, 1, h, w)")
            if name not in self._stages:
                self._stages[name] = _StageHealth(mask.shape[-2], mask.shape[-1]).to(mask.device)
            self._stages[name].update(mask.detach(), region)

    def compute(self) -> dict[str, float]:
        """Health by stage, every value in [0, 1].

        Returns:
            For each stage name:

            - ``<stage>_active``: share of active positions.
            - ``<stage>_all_open``, ``<stage>_all_closed``: share of samples whose mask is
              active everywhere, or nowhere.
            - ``<stage>_variance``: variance of a position between samples, mean over
              positions; 0 if every sample has the same mask. Left out below two samples.
            - ``<stage>_inside``: share of the active area inside the object, pooled over
              the samples with ground truth; left out if there is none.

            And ``object_share``: the object's share of the image, what ``inside`` would be
            for a mask that does not look; left out without ground truth.
        """
        values: dict[str, float] = {}
        for name, stage in self._stages.items():
            for key, value in stage.compute().items():
                values["object_share" if key == "object_share" else f"{name}_{key}"] = value
        return values


class _StageHealth(Metric):
    """Sums of one stage's masks, of fixed size (h, w)."""

    full_state_update = False

    samples: Tensor
    all_open: Tensor
    all_closed: Tensor
    active_at: Tensor
    active_known: Tensor
    active_inside: Tensor
    object_area: Tensor
    known: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        for name in ("samples", "all_open", "all_closed", "known"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("active_known", "active_inside", "object_area"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("active_at", torch.zeros(height, width, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, mask: Tensor, region: Tensor | None) -> None:
        active = mask[:, 0] > OPEN
        if active.shape[1:] != self.active_at.shape:
            raise DataError(
                f"mask health: mask of size {tuple(active.shape[1:])} after {tuple(self.active_at.shape)}; "
                "evaluate at one resolution"
            )
        self.samples += len(active)
        self.all_open += active.flatten(1).all(dim=1).sum()
        self.all_closed += (~active.flatten(1).any(dim=1)).sum()
        self.active_at += active.sum(dim=0)
        if region is not None:
            self._update_inside(active.float(), region.float().reshape(len(active), 1, *region.shape[-2:]))

    def compute(self) -> dict[str, float]:
        frequency = self.active_at / self.samples
        values = {
            "active": float(frequency.mean()),
            "all_open": float(self.all_open / self.samples),
            "all_closed": float(self.all_closed / self.samples),
        }
        if self.samples > 1:
            # A position is 0 or 1, so its variance over the samples is f (1 - f).
            values["variance"] = float((frequency * (1 - frequency)).mean())
        if self.active_known > 0:
            values["inside"] = float(self.active_inside / self.active_known)
        if self.known > 0:
            values["object_share"] = float(self.object_area / self.known)
        return values

    def _update_inside(self, active: Tensor, region: Tensor) -> None:
        known = region.flatten(1).any(dim=1)
        active, region = active[known], region[known]
        # At the region's resolution, as EPG is: each mask position covers its own patch of the image.
        size = (region.shape[-2], region.shape[-1])
        active = F.interpolate(active[:, None], size=size, mode="nearest-exact")
        self.active_known += active.mean(dim=(1, 2, 3)).sum()
        self.active_inside += (active * region).mean(dim=(1, 2, 3)).sum()
        self.object_area += region.mean(dim=(1, 2, 3)).sum()
        self.known += known.sum()
