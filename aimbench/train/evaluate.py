"""The final evaluation: accuracy by group on every split, and where the model looked on the test split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor

from aimbench.metrics.attribution import gradcam_and_input_gradient
from aimbench.metrics.epg import energy_pointing_game, epg_score, uniform_reference
from aimbench.metrics.health import MaskHealth
from aimbench.models.classifier import Classifier, Output
from aimbench.record import EpgScore
from aimbench.train.method import Method
from aimbench.train.predictions import Predictions
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData

ATTRIBUTIONS = ("gradcam", "input_x_gradient", "mask", "uniform")
BATCH = 32


@dataclass(frozen=True)
class Looked:
    """Where the model looked on a split, one row a sample that was scored.

    Attributes:
        index: ``(M,)`` positions in the split.
        scores: EPG of each attribution, ``(M,)``; NaN where the sample has no ground truth.
        undefined: whether the attribution had no positive energy, ``(M,)``.
        health: of the method's own masks.
    """

    index: npt.NDArray[np.int64]
    scores: dict[str, npt.NDArray[np.float32]]
    undefined: dict[str, npt.NDArray[np.bool_]]
    health: dict[str, float]


@dataclass(frozen=True)
class Maps:
    """Attributions of one batch: maps ``(N, h, w)`` by name, and what the model said."""

    maps: dict[str, Tensor]
    output: Output


def attribute(model: Classifier, method: Method, image: Tensor, label: Tensor, mask: Tensor | None = None) -> Maps:
    """GradCAM, input x gradient and the method's own map, out of one forward and one backward pass.

    Args:
        model: in evaluation mode.
        method: for its own map.
        image: ``(N, 3, H, W)`` normalised.
        label: ``(N,)`` true classes, which the attributions explain.
        mask: ``(N, 1, H, W)`` ground truth, for methods that are entitled to it.
    """
    viewed = _WithMask(model, mask)
    maps, output = gradcam_and_input_gradient(
        viewed, image, label, token_map=model.pyramid.token_map if model.pyramid.is_token_grid else None
    )
    own = method.explain(output)
    if own is not None:
        maps["mask"] = own.detach()
    return Maps(maps, output)


def look(
    fabric: Fabric,
    model: Classifier,
    method: Method,
    data: RunData,
    split: str,
    subset: int | None,
    reporter: Reporter,
) -> Looked:
    """Scores every attribution on a split, or on a fixed seeded subset of it.

    Args:
        fabric: device and precision.
        model: evaluated as it stands.
        method: for its own map.
        data: the run's sources.
        split: with ground truth.
        subset: number of samples; None takes all.
        reporter: shows progress.
    """
    model.eval()
    source = data.photographs(split, BATCH, region=True)
    order = evaluated_positions(len(source), subset)
    scores: dict[str, list[Tensor]] = {}
    undefined: dict[str, list[Tensor]] = {}
    health = MaskHealth()
    with reporter.task(f"EPG on {split}", len(order)) as task:
        for batch in source.epoch(order, seed=0):
            loaded = batch.to(fabric.device, channels_last=True)
            region = loaded.mask[:, 0]
            with fabric.autocast():
                seen = attribute(model, method, loaded.image, loaded.label, loaded.mask)
            for name, map_ in seen.maps.items():
                score, empty = energy_pointing_game(map_.float(), region)
                scores.setdefault(name, []).append(score.cpu())
                undefined.setdefault(name, []).append(empty.cpu())
            scores.setdefault("uniform", []).append(uniform_reference(region).cpu())
            undefined.setdefault("uniform", []).append(torch.zeros(len(batch), dtype=torch.bool))
            health.update(seen.output.masks, region)
            task.advance(len(batch))
    return Looked(
        index=order,
        scores={name: torch.cat(parts).numpy() for name, parts in scores.items()},
        undefined={name: torch.cat(parts).numpy() for name, parts in undefined.items()},
        health=health.compute(),
    )


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
    for name in ATTRIBUTIONS:
        if name in looked.scores and np.isfinite(looked.scores[name]).any():
            result[name] = epg_score(
                looked.scores[name], looked.undefined[name], correct, group[looked.index], group_names, seed=0
            )
    return result


class _WithMask:
    """The classifier as attributions see it, with the ground truth that its head may be entitled to."""

    def __init__(self, model: Classifier, mask: Tensor | None) -> None:
        self._model = model
        self._mask = mask
        self.training = model.training

    def features(self, image: Tensor) -> list[Tensor]:
        return self._model.features(image)

    def predict(self, features: list[Tensor]) -> Output:
        return self._model.predict(features, self._mask)
