"""Energy Pointing Game: the share of positive attribution that lies on the object.

Wang et al. 2020 (Score-CAM), in the convention of Rao et al. 2023: negative
attribution is dropped, the map is upsampled to the image, and a map without
energy scores 0. Maps are ``(..., H, W)`` throughout: row first.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from aimbench.errors import DataError
from aimbench.metrics.statistics import bootstrap_mean_interval
from aimbench.record import EpgScore

MINIMAL_ENERGY = 1e-7
"""Total positive attribution of an upsampled map below which EPG is undefined."""


def energy_pointing_game(attribution: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Scores each attribution by the share of its positive energy inside the object.

    Args:
        attribution: (N, H, W) signed maps; at most as large as ``region``.
        region: (N, H0, W0) ground truth in [0, 1] or bool, at the image's resolution.

    Returns:
        scores: (N,) float32 in [0, 1]. 0 where undefined; NaN where the region is
            empty, that is, where there is no ground truth to score against.
        undefined: (N,) bool, True where a sample has ground truth, but its map's
            positive energy is below ``MINIMAL_ENERGY``.

    Raises:
        DataError: If a map is NaN or infinite, its sum overflows, it is larger than its region, or a region leaves
            [0, 1].
    """
    _check(attribution, region)
    inside = region.float()
    energy = attribution.float().clamp(min=0)
    if energy.shape != inside.shape:
        energy = F.interpolate(energy[:, None], size=inside.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    total = energy.sum(dim=(1, 2))
    if not bool(total.isfinite().all()):
        place = int((~total.isfinite()).nonzero()[0])
        raise DataError(
            f"EPG: energy of sample {place} of the batch exceeds single precision; divide maps by their largest value"
        )
    covered = (energy * inside).sum(dim=(1, 2))
    has_region = inside.flatten(1).any(dim=1)
    undefined = (total < MINIMAL_ENERGY) & has_region
    scores = torch.where(total < MINIMAL_ENERGY, 0.0, covered / total.clamp(min=MINIMAL_ENERGY))
    return scores.masked_fill(~has_region, torch.nan), undefined


def uniform_reference(region: Tensor) -> Tensor:
    """EPG of a uniform map: the foreground's share of the image.

    A model whose EPG lies below it looks away from the object.

    Args:
        region: (N, H, W) ground truth in [0, 1] or bool.

    Returns:
        (N,) float32 in [0, 1]; NaN where the region is empty, as ``energy_pointing_game`` has it.
    """
    share = region.float().mean(dim=(1, 2))
    return share.masked_fill(share == 0, torch.nan)


def centre_gaussian(h: int, w: int) -> Tensor:
    """A map that always points at the centre: objects are photographed there.

    Args:
        h: Height in pixels.
        w: Width in pixels.

    Returns:
        (h, w) float32 Gaussian in (0, 1], standard deviation a quarter of each side.
    """
    # Pixel centres in units of the side, 0 at the centre of the image.
    y = (torch.arange(h) + 0.5) / h - 0.5
    x = (torch.arange(w) + 0.5) / w - 0.5
    return torch.exp(-8 * (y[:, None] ** 2 + x[None, :] ** 2))


def epg_score(
    scores: ArrayLike,
    undefined: ArrayLike,
    correct: ArrayLike,
    group: ArrayLike | None,
    group_names: Sequence[str],
    seed: int,
    *,
    bootstrap_samples: int = 1000,
) -> EpgScore:
    """Summarises per-sample scores for the record, with a bootstrap interval of the mean.

    Args:
        scores: (N,) of ``energy_pointing_game``; samples whose score is NaN (no ground
            truth) are left out.
        undefined: (N,) bool of ``energy_pointing_game``.
        correct: (N,) bool, whether each sample was predicted right.
        group: (N,) indices into ``group_names``, or None where there are no groups.
        group_names: Names of the groups; groups without a sample are left out.
        seed: Seed of the bootstrap.
        bootstrap_samples: Bootstrap samples.

    Returns:
        The summary; ``correct`` or ``incorrect`` is None if there is no such sample.

    Raises:
        DataError: If no sample has ground truth, or the arrays differ in length.
    """
    score = np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(score)
    if not known.any():
        raise DataError("EPG: no sample has ground truth; leave EPG out for this split")
    columns = {"undefined": undefined, "correct": correct, "group": group}
    arrays = {name: np.asarray(column) for name, column in columns.items() if column is not None}
    for name, column in arrays.items():
        if column.shape != score.shape:
            raise DataError(f"EPG: {name} has shape {column.shape}, scores {score.shape}; give one for each sample")
    score = score[known]
    right = arrays["correct"][known].astype(bool)
    low, high = bootstrap_mean_interval(score, samples=bootstrap_samples, seed=seed)
    groups: dict[str, float] = {}
    if group is not None:
        of_group = {name: score[arrays["group"][known] == g] for g, name in enumerate(group_names)}
        groups = {name: float(values.mean()) for name, values in of_group.items() if values.size}
    return EpgScore(
        value=float(score.mean()),
        low=low,
        high=high,
        n=score.size,
        undefined=int(arrays["undefined"][known].sum()),
        correct=float(score[right].mean()) if right.any() else None,
        incorrect=float(score[~right].mean()) if not right.all() else None,
        groups=groups,
    )


def _check(attribution: Tensor, region: Tensor) -> None:
    if attribution.dim() != 3 or region.dim() != 3 or len(attribution) != len(region):
        raise DataError(
            f"EPG: attribution {tuple(attribution.shape)}, region {tuple(region.shape)}; "
            "give (N, H, W) maps, one region for each"
        )
    if attribution.shape[1] > region.shape[1] or attribution.shape[2] > region.shape[2]:
        raise DataError(
            f"EPG: attribution {tuple(attribution.shape[1:])} is larger than its region "
            f"{tuple(region.shape[1:])}; give (height, width) maps, and the region at the image's resolution"
        )
    finite = attribution.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise DataError(
            f"EPG: attribution of sample {place} of the batch is NaN or infinite; check the model's gradients"
        )
    if region.dtype != torch.bool:
        valid = ((region >= 0) & (region <= 1)).flatten(1).all(dim=1)
        if not bool(valid.all()):
            place = int((~valid).nonzero()[0])
            raise DataError(f"EPG: region of sample {place} of the batch leaves [0, 1]; divide 8-bit masks by 255")
