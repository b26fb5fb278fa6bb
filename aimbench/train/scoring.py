"""From predictions and attributions to what a record says of them."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aimbench.data.dataset import ShardDataset
from aimbench.data.transforms import TransformConfig
from aimbench.metrics.groups import headline, split_metrics
from aimbench.record import DatasetInfo, HeadScore, SplitMetrics
from aimbench.train.attributions import DEFAULT
from aimbench.train.evaluate import Looked, epg_scores
from aimbench.train.predictions import Predictions
from aimbench.train.sources import GroundTruth


def dataset_info(dataset: ShardDataset) -> DatasetInfo:
    """The dataset as a record names it."""
    manifest = dataset.manifest
    return DatasetInfo(
        name=manifest.name, variant=manifest.variant, kind=manifest.kind, fingerprint=manifest.fingerprint
    )


def evaluation_settings(
    dataset: ShardDataset,
    transform: TransformConfig,
    epg_samples: int | None,
    attributions: tuple[str, ...],
    ground_truth: GroundTruth = "mask",
) -> dict[str, Any]:
    """What evaluation depends on, for a record's definition."""
    manifest, plain = dataset.manifest, transform.without_augmentation()
    return {
        "epg_samples": epg_samples,
        # Named only where they differ from the default, under which earlier records were hashed.
        **({"attributions": list(attributions)} if attributions != DEFAULT else {}),
        **({"epg_region": ground_truth} if ground_truth != "mask" else {}),
        # Of training images as well where they are augmented: a card may say how, and a run is known by it.
        "transform": json.loads(json.dumps((transform if transform.augment else plain).as_dict())),
        "num_classes": len(manifest.classes),
        "groups": manifest.groups,
        "train_group_counts": group_counts(dataset, "train"),
    }


def group_counts(dataset: ShardDataset, split: str) -> list[int]:
    """Samples of each declared group in a split."""
    groups = dataset.split(split).group
    return [int(n) for n in np.bincount(groups, minlength=len(dataset.manifest.groups))]


def score(
    dataset: ShardDataset, predictions: Mapping[str, Predictions], looked: Looked | None
) -> dict[str, SplitMetrics]:
    """Every metric of each split; EPG on the test split where something looked."""
    metrics = {split: _accuracies(dataset, split, rows) for split, rows in predictions.items()}
    if looked is not None:
        index = dataset.split("test")
        epg = epg_scores(looked, predictions["test"], index.group, dataset.manifest.groups)
        masks = looked.ground_truth == "mask" and bool(index.has_mask.any())
        metrics["test"] = metrics["test"].model_copy(
            update={
                "epg": epg,
                "epg_region": ("mask" if masks else "boxes") if epg else None,
                "epg_samples": "all" if len(looked.index) == len(index) else f"{len(looked.index)} with seed 0",
                "mask_health": looked.health,
            }
        )
    return metrics


def prediction_table(dataset: ShardDataset, predictions: Mapping[str, Predictions], looked: Looked | None) -> bytes:
    """One row a sample of every split, as Parquet; EPG columns on the test split where something looked."""
    frames = []
    for split, rows in predictions.items():
        index = dataset.split(split)
        frame = pd.DataFrame(
            {
                "split": split,
                "key": index.keys,
                "label": rows.label.astype(np.int32),
                "group": index.group.astype(np.int32),
                "prediction": rows.prediction.astype(np.int32),
                "probability": rows.probability,
            }
        )
        if split == "test" and looked is not None:
            for name, scores in looked.scores.items():
                column = np.full(len(frame), np.nan, dtype=np.float32)
                column[looked.index] = scores
                frame[f"epg_{name}"] = column
        frames.append(frame)
    buffer = io.BytesIO()
    pd.concat(frames, ignore_index=True).to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()


def _accuracies(dataset: ShardDataset, split: str, rows: Predictions) -> SplitMetrics:
    manifest = dataset.manifest
    group = dataset.split(split).group
    metrics = split_metrics(
        rows.label,
        rows.prediction,
        group,
        len(manifest.classes),
        manifest.groups,
        group_counts(dataset, "train"),
    )
    heads = {}
    for name, prediction in rows.heads.items():
        scores = headline(rows.label, prediction, group)
        heads[name] = HeadScore(accuracy=scores["accuracy"], worst_group_accuracy=scores.get("worst_group_accuracy"))
    return metrics.model_copy(update={"heads": heads})
