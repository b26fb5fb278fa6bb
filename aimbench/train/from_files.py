"""Predictions and attributions made elsewhere, scored by the same code as our own."""

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aimbench.data.dataset import ShardDataset, SplitIndex
from aimbench.data.loader import ImageDataset, ImageSource
from aimbench.data.transforms import TransformConfig
from aimbench.errors import DataError, nearest_names
from aimbench.metrics.epg import energy_pointing_game
from aimbench.record import BackboneInfo, Cost
from aimbench.train.as_is import external_definition, external_record
from aimbench.train.attributions import DEFAULT
from aimbench.train.environment import environment
from aimbench.train.evaluate import BATCH, Looked, check_ground_truth, references
from aimbench.train.experiment import Result
from aimbench.train.predictions import Predictions
from aimbench.train.scoring import evaluation_settings, prediction_table, score
from aimbench.train.sources import GroundTruth
from aimbench.train.subjects import external_method


@dataclass(frozen=True)
class FilesRequest:
    """What a user asks for.

    Attributes:
        name: of the method in the record.
        dataset: ``name`` or ``name@variant``.
        predictions: CSV with the columns ``key``, ``prediction`` (class name or index) and optionally ``logits``
            (numbers separated by spaces, in the order of the dataset's classes). It covers the whole test split.
        attributions: folder with one ``<key>.npy`` a test sample, an (h, w) array over the network's input, or None.
        backbone: name of the backbone, for the record.
        train_labels: labels that the model was trained with, as a regime's ``train``.
        image_size: side of the network's input that the attributions lie over, pixels.
        epg_region: as in ``experiment.Request``.
    """

    name: str
    dataset: str
    predictions: Path
    data_root: Path
    attributions: Path | None = None
    backbone: str = "unknown"
    train_labels: str = "class"
    image_size: int = 224
    epg_region: str = "mask"
    cards: Path | None = None


def score_files(request: FilesRequest) -> Result:
    """Scores the files and returns the record; its metrics cover the test split alone.

    Raises:
        DataError: a file is missing or malformed, or predictions or attributions miss, repeat or invent samples.
    """
    started = time.perf_counter()
    dataset = ShardDataset.open(request.dataset, request.data_root, request.cards)
    index = dataset.split("test")
    predictions = read_predictions(request.predictions, index, dataset.manifest.classes)
    # The normalisation touches pixels alone, and no pixel is read here.
    card = dataset.card.transforms
    ratio = card.eval_resize / card.eval_crop
    transform = TransformConfig(request.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ratio)
    ground_truth = check_ground_truth(request.epg_region, frozenset())
    looked = None
    if request.attributions is not None:
        looked = score_attributions(request.attributions, dataset, index, transform, ground_truth)
    digest = hashlib.sha256(request.predictions.read_bytes())
    if looked is not None:
        digest.update(looked.scores["external"].tobytes())
    definition = external_definition(
        dataset,
        info=external_method(request.name, request.train_labels),
        backbone=BackboneInfo(name=request.backbone, weights="external", weights_hash="unknown"),
        training={"external": "predictions made elsewhere", "sha256": digest.hexdigest()},
        evaluation=evaluation_settings(dataset, transform, None if looked else 0, DEFAULT, ground_truth),
    )
    cost = Cost(parameters=0, trainable_parameters=0, wall_seconds=round(time.perf_counter() - started, 2))
    where = environment(torch.device("cpu"), torch.get_num_threads())
    rows = {"test": predictions}
    record = external_record(definition, score(dataset, rows, looked), cost, where)
    return Result(record, {"predictions": prediction_table(dataset, rows, looked)})


def read_predictions(path: Path, index: SplitIndex, classes: list[str]) -> Predictions:
    """Reads predictions of a whole split, in any order.

    Returns:
        In the order of the split; the probability of the true class is 1 or 0 where there are no logits.

    Raises:
        DataError: as ``score_files``.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"predictions {path} cannot be read ({error}); give a CSV with columns key,prediction"
        ) from error
    for column in ("key", "prediction"):
        if column not in table:
            raise DataError(f"predictions {path} have no column '{column}'; give a CSV with columns key,prediction")
    _check_keys(path, table["key"], index)
    place = {key: i for i, key in enumerate(index.keys)}
    order = [place[key] for key in table["key"]]
    prediction = np.empty(len(index), dtype=np.int64)
    prediction[order] = [
        _class_index(path, key, word, classes) for key, word in zip(table["key"], table["prediction"], strict=True)
    ]
    probability = (prediction == index.label).astype(np.float32)
    if "logits" in table:
        for key, i, words in zip(table["key"], order, table["logits"], strict=True):
            probability[i] = _probability(path, key, words, int(prediction[i]), int(index.label[i]), len(classes))
    return Predictions(index.label, prediction, probability)


def score_attributions(
    folder: Path,
    dataset: ShardDataset,
    index: SplitIndex,
    transform: TransformConfig,
    ground_truth: GroundTruth,
) -> Looked:
    """EPG of one map a sample, read from ``folder``.

    Raises:
        DataError: the folder misses a sample, a map is no (h, w) array, not finite, or larger than the image, or no
            sample has ground truth.
    """
    if not folder.is_dir():
        raise DataError(f"attributions {folder} is no folder; give one with a file <key>.npy for each test sample")
    split = ImageDataset(
        index,
        transform,
        mask_threshold=dataset.card.ground_truth.mask_threshold,
        with_region=True,
        with_mask=ground_truth == "mask",
    )
    source = ImageSource(split, BATCH, fields=frozenset({"mask"}))
    scores: dict[str, list[torch.Tensor]] = {}
    undefined: dict[str, list[torch.Tensor]] = {}
    for batch in source.epoch(np.arange(len(index)), seed=0):
        region = batch.mask[:, 0]
        for key, truth in zip(batch.keys, region, strict=True):
            map_ = torch.from_numpy(_read_map(folder, key, transform.image_size))
            value, empty = energy_pointing_game(map_[None], truth[None])
            scores.setdefault("external", []).append(value)
            undefined.setdefault("external", []).append(empty)
        for name, reference in references(region).items():
            scores.setdefault(name, []).append(reference)
            undefined.setdefault(name, []).append(torch.zeros(len(batch), dtype=torch.bool))
    if all(share.isnan().all() for share in scores["uniform"]):
        raise DataError(
            f"attributions {folder}: no test sample of {dataset.name} has {ground_truth} to score them by;"
            " leave --attributions out"
        )
    return Looked(
        index=np.arange(len(index)),
        scores={name: torch.cat(parts).numpy() for name, parts in scores.items()},
        undefined={name: torch.cat(parts).numpy() for name, parts in undefined.items()},
        health={},
        ground_truth=ground_truth,
    )


def _check_keys(path: Path, keys: "pd.Series[str]", index: SplitIndex) -> None:
    repeated = keys[keys.duplicated()]
    if len(repeated):
        raise DataError(f"predictions {path} repeat sample '{repeated.iloc[0]}'; give each test sample once")
    unknown = sorted(set(keys) - set(index.keys))
    if unknown:
        raise DataError(
            f"predictions {path} hold '{unknown[0]}', which is no sample of '{index.name}';"
            f" {nearest_names(unknown[0], index.keys[:1000])}"
        )
    missing = sorted(set(index.keys) - set(keys))
    if missing:
        raise DataError(
            f"predictions {path} miss {len(missing)} of {len(index)} samples of '{index.name}', the first"
            f" '{missing[0]}'; give every one"
        )


def _class_index(path: Path, key: str, word: str, classes: list[str]) -> int:
    if word in classes:
        return classes.index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    raise DataError(
        f"predictions {path}, sample '{key}': '{word}' is no class; give a name or an index 0 to {len(classes) - 1}"
    )


def _probability(path: Path, key: str, words: str, prediction: int, label: int, classes: int) -> float:
    """Softmax probability of the true class."""
    try:
        logits = np.array([float(word) for word in words.split()])
    except ValueError as error:
        raise DataError(f"predictions {path}, sample '{key}': logits are no numbers ({error})") from error
    if len(logits) != classes or not np.isfinite(logits).all():
        raise DataError(
            f"predictions {path}, sample '{key}': {len(logits)} logits; give {classes} finite ones, separated by spaces"
        )
    if logits[prediction] < logits.max():
        raise DataError(
            f"predictions {path}, sample '{key}': the prediction is class {prediction}, the largest logit is of class"
            f" {int(logits.argmax())}; check the order of the classes"
        )
    return math.exp(logits[label] - logits.max()) / float(np.exp(logits - logits.max()).sum())


def _read_map(folder: Path, key: str, size: int) -> npt.NDArray[np.float32]:
    path = folder / f"{key}.npy"
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"attributions {folder} have no {key}.npy; give one map for each test sample") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"attribution {path} cannot be read ({error}); save a plain array with numpy.save") from error
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise DataError(f"attribution {path} is {array.dtype} of shape {array.shape}; give (height, width) numbers")
    if max(array.shape) > size:
        raise DataError(
            f"attribution {path} is {array.shape[1]}x{array.shape[0]}, the network's input {size}x{size}; give a map of"
            " at most its size, or name the size with --image-size"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        map_ = np.asarray(array, dtype=np.float32)
    if not np.isfinite(map_).all():
        raise DataError(f"attribution {path} holds NaN or infinity; check the model's gradients")
    return map_
