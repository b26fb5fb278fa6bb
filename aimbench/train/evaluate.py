"""The final evaluation: accuracy by group on every split, and where the model looked on the test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor

from aimbench.data.sharing import share
from aimbench.errors import ConfigError, nearest_names
from aimbench.metrics.epg import centre_gaussian, energy_pointing_game, epg_score, uniform_reference
from aimbench.metrics.health import MaskHealth
from aimbench.metrics.health_words import warnings
from aimbench.models.classifier import Classifier
from aimbench.models.folding import fold_batch_norms
from aimbench.record import EpgScore
from aimbench.train.attributions import DEFAULT, attribute
from aimbench.train.method import Method
from aimbench.train.predictions import Predictions, all_rows, what_it_says
from aimbench.train.progress import Reporter
from aimbench.train.sources import GroundTruth, RunData

BATCH = 32
CPU_BATCH = 8
"""What the backward pass keeps of 32 photographs (gigabytes) costs a CPU more in memory than it saves in calls."""


@dataclass(frozen=True)
class Looked:
    """Where the model looked on a split, one row a sample that was scored.

    Attributes:
        index: ``(M,)`` positions in the split.
        scores: EPG of each attribution, ``(M,)``; NaN where the sample has no ground truth.
        undefined: whether the attribution had no positive energy, ``(M,)``.
        health: of the method's own masks.
        said: what the model predicted in the same pass; None where the maps were made elsewhere.
        ground_truth: ``boxes`` where masks were left aside.
    """

    index: npt.NDArray[np.int64]
    scores: dict[str, npt.NDArray[np.float32]]
    undefined: dict[str, npt.NDArray[np.bool_]]
    health: dict[str, float]
    said: Predictions | None = None
    ground_truth: GroundTruth = "mask"


def look(
    fabric: Fabric,
    model: Classifier,
    method: Method,
    data: RunData,
    split: str,
    subset: int | None,
    reporter: Reporter,
    attributions: Sequence[str] = DEFAULT,
    *,
    ground_truth: GroundTruth = "mask",
) -> Looked:
    """Scores every attribution on a split, or on a fixed seeded subset of it.

    Args:
        fabric: device and precision.
        model: evaluated as it stands.
        method: for its own map.
        data: the run's sources.
        split: with ground truth.
        subset: number of samples; None takes all.
        reporter: shows progress, and what is wrong with the method's own masks.
        attributions: to score beside the method's own map and the two references.
        ground_truth: ``boxes`` leaves masks aside where there are both.
    """
    model.eval()
    size = CPU_BATCH if fabric.device.type == "cpu" else BATCH
    source = data.photographs(split, size, region=True, ground_truth=ground_truth)
    chosen = evaluated_positions(len(source), subset)
    mine = share().of_split(len(chosen), size)
    order = chosen[mine]
    scores: dict[str, list[Tensor]] = {}
    undefined: dict[str, list[Tensor]] = {}
    said: dict[str, list[Tensor]] = {}
    health = MaskHealth()
    folded: Classifier | None = None
    with reporter.task(f"EPG on {split}", len(order)) as task:
        for batch in source.epoch(order, seed=0):
            loaded = batch.to(fabric.device, channels_last=True)
            region = loaded.mask[:, 0]
            if folded is None:
                folded = fold_batch_norms(model, loaded.image[:1], loaded.mask[:1])
            with fabric.autocast():
                seen = attribute(folded, method, loaded.image, loaded.label, loaded.mask, names=attributions)
            for name, column in what_it_says(seen.output, batch).items():
                said.setdefault(name, []).append(column)
            for name, map_ in seen.maps.items():
                score, empty = energy_pointing_game(map_.float(), region)
                scores.setdefault(name, []).append(score.cpu())
                undefined.setdefault(name, []).append(empty.cpu())
            for name, reference in references(region).items():
                scores.setdefault(name, []).append(reference.cpu())
                undefined.setdefault(name, []).append(torch.zeros(len(batch), dtype=torch.bool))
            health.update(seen.output.masks, region)
            task.advance(len(batch))
    found = health.compute()
    for warning in warnings(found):
        reporter.warn(f"{split}: {warning}")
    return Looked(
        index=chosen,
        scores=all_rows(mine, scores),
        undefined=all_rows(mine, undefined),
        health=found,
        said=Predictions.from_columns(all_rows(mine, said)),
        ground_truth=ground_truth,
    )


def check_epg_samples(samples: int | None) -> None:
    """Checks a number of images for EPG; None takes all of them, 0 leaves EPG out.

    Raises:
        ConfigError: it is negative.
    """
    if samples is not None and samples < 0:
        raise ConfigError(f"--epg-samples {samples}: give 0 or more")


def check_ground_truth(name: str, fields: frozenset[str]) -> GroundTruth:
    """Returns ``mask`` or ``boxes``.

    Raises:
        ConfigError: ``name`` is neither, or boxes are asked of a method that reads masks: it would be handed boxes.
    """
    if name not in get_args(GroundTruth):
        raise ConfigError(f"unknown ground truth '{name}': {nearest_names(name, get_args(GroundTruth))}")
    if name == "boxes" and "mask" in fields:
        raise ConfigError("EPG by boxes is not defined for a method that reads masks; leave out --epg-region")
    return "boxes" if name == "boxes" else "mask"


def evaluated_positions(size: int, subset: int | None) -> npt.NDArray[np.int64]:
    """All positions, or ``subset`` of them: the same ones for every run on the split."""
    if subset is None or subset >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(0).choice(size, size=subset, replace=False))


def epg_scores(
    looked: Looked, predictions: Predictions, group: npt.NDArray[np.int64], group_names: list[str]
) -> dict[str, EpgScore]:
    """EPG of each attribution over the samples that have ground truth, with intervals and by group."""
    result = {}
    correct = (predictions.prediction == predictions.label)[looked.index]
    for name, scores in looked.scores.items():
        if np.isfinite(scores).any():
            result[name] = epg_score(scores, looked.undefined[name], correct, group[looked.index], group_names, seed=0)
    return result


def references(region: Tensor) -> dict[str, Tensor]:
    """EPG of two maps that know nothing of the image, for ``(N, H, W)`` regions: ``(N,)`` each."""
    centre = centre_gaussian(*region.shape[-2:]).to(region.device).expand(len(region), -1, -1)
    return {"uniform": uniform_reference(region), "centre_gaussian": energy_pointing_game(centre, region)[0]}
