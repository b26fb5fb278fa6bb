"""Made-up records with numbers that are easy to compute by hand."""

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from aimbench.record import (
    BackboneInfo,
    CodeInfo,
    Cost,
    DatasetInfo,
    Definition,
    EpgScore,
    Interval,
    MethodInfo,
    Record,
    SelectorScore,
    SplitMetrics,
)

GROUPS = ["landbird on land", "landbird on water", "waterbird on land", "waterbird on water"]

RecordFactory = Callable[..., Record]


def interval(value: float) -> Interval:
    value = min(value, 1.0)
    return Interval(value=value, low=max(0.0, value - 0.05), high=min(1.0, value + 0.05))


def epg(value: float) -> EpgScore:
    return EpgScore(value=value, low=max(0.0, value - 0.01), high=min(1.0, value + 0.01), n=4, undefined=0)


def made_up_metrics(
    accuracy: float = 0.8, wga: float = 0.5, worst: str = GROUPS[2], **epg_values: float
) -> SplitMetrics:
    return SplitMetrics(
        n=100,
        accuracy=interval(accuracy),
        accuracy_reweighted=interval(accuracy + 0.05),
        accuracy_group_mean=interval(accuracy - 0.05),
        accuracy_class_balanced=accuracy,
        worst_group_accuracy=interval(wga),
        worst_group=worst,
        epg={name: epg(value) for name, value in epg_values.items()},
    )


def made_up_record(
    *,
    method: str = "erm",
    source: str = "a paper",
    config: dict[str, Any] | None = None,
    regime: dict[str, Any] | None = None,
    dataset: str = "waterbirds",
    variant: str = "95",
    kind: str = "official",
    fingerprint: str = "f" * 64,
    backbone: str = "resnet50",
    weights_hash: str = "w" * 64,
    training: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    seed: int = 0,
    selector: str = "val_accuracy",
    metrics: dict[str, SplitMetrics] | None = None,
    revision: str = "abc",
    dirty: bool = False,
) -> Record:
    definition = Definition(
        method=MethodInfo(
            name=method,
            source=source,
            config=config or {},
            regime=regime or {"train": "class", "select": "class"},
        ),
        dataset=DatasetInfo(name=dataset, variant=variant, kind=kind, fingerprint=fingerprint),  # type: ignore[arg-type]
        backbone=BackboneInfo(name=backbone, weights="timm", weights_hash=weights_hash),
        training=training or {"train": "head", "epochs": 20},
        evaluation=evaluation or {"groups": GROUPS, "num_classes": 2, "train_group_counts": [3498, 184, 56, 1057]},
        seed=seed,
        selector=selector,
    )
    return Record(
        id=definition.id,
        **{name: getattr(definition, name) for name in Definition.model_fields},
        selected={"phase": "train", "epoch": 3},
        metrics=metrics or {"test": made_up_metrics()},
        cost=Cost(parameters=10, trainable_parameters=2, wall_seconds=1.5),
        code=CodeInfo(version="0.1.0", revision=revision, dirty=dirty),
        environment={"python": "3.11"},
        created="2026-01-01T00:00:00Z",
    )


@pytest.fixture
def make_metrics() -> Callable[..., SplitMetrics]:
    return made_up_metrics


@pytest.fixture
def make_record() -> RecordFactory:
    return made_up_record


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def sound_run() -> tuple[Record, dict[str, bytes]]:
    """A record whose metrics follow from its eight predictions, and its files.

    By hand: 5 of 8 are right; the groups have 2 of 2, 1 of 2, 0 of 2 and 2 of 2, so the worst is
    'waterbird on land'. EPG values are 0.2, 0.4, 0.6 and 0.8; the other four samples were not measured.
    """
    from aimbench.metrics.groups import split_metrics

    table = pd.DataFrame(
        {
            "split": ["test"] * 8,
            "key": [f"{i:06d}" for i in range(8)],
            "label": [0, 0, 0, 0, 1, 1, 1, 1],
            "group": [0, 0, 1, 1, 2, 2, 3, 3],
            "prediction": [0, 0, 0, 1, 0, 0, 1, 1],
            "probability": [0.9] * 8,
            "epg_gradcam": [0.2, 0.4, 0.6, 0.8] + [None] * 4,
        }
    )
    metrics = split_metrics(
        table["label"].to_numpy(),
        table["prediction"].to_numpy(),
        table["group"].to_numpy(),
        2,
        GROUPS,
        [3498, 184, 56, 1057],
    ).model_copy(update={"epg": {"gradcam": epg_by_hand([0.2, 0.4, 0.6, 0.8], 0.5, 0.8, [0.3, 0.7])}})
    # As of a model that was evaluated as it is: no epoch was selected, so there are none to check it by.
    record = made_up_record(metrics={"test": metrics}).model_copy(update={"selected": {}})
    return record, {f"{record.id}.predictions.parquet": parquet(table)}


def epg_by_hand(
    values: list[float], mean: float, incorrect: float, of_groups: list[float], undefined: int = 0
) -> EpgScore:
    """EPG of the first four samples of `sound_run`: the first three are right, two lie in each of two groups."""
    from aimbench.metrics.statistics import bootstrap_mean_interval

    low, high = bootstrap_mean_interval(values, seed=0)
    groups = dict(zip(GROUPS, of_groups, strict=False))
    return EpgScore(
        value=mean, low=low, high=high, n=4, undefined=undefined, correct=0.4, incorrect=incorrect, groups=groups
    )


@pytest.fixture
def epg_of_four() -> Callable[..., EpgScore]:
    return epg_by_hand


@pytest.fixture
def sound_run_with_epochs(sound_run) -> tuple[Record, dict[str, bytes]]:
    """The same run with the predictions of two epochs; the second is the selected one.

    By hand: at epoch 0 every sample is called a landbird, so 4 of 8 are right.
    """
    record, files = sound_run
    ((_, content),) = files.items()
    test = pd.read_parquet(io.BytesIO(content))
    val = test.assign(split="val")
    epochs = pd.concat(
        [
            pd.DataFrame(
                {
                    "phase": "train",
                    "epoch": epoch,
                    "candidate": True,
                    "split": split,
                    "index": range(8),
                    "prediction": predicted,
                }
            )
            for epoch, predicted in enumerate([[0] * 8, test["prediction"].tolist()])
            for split in ("val", "test")
        ]
    )
    scores = [
        {"accuracy": 0.5, "class_balanced_accuracy": 0.5, "worst_group_accuracy": 0.0},
        {"accuracy": 0.625, "class_balanced_accuracy": 0.625, "worst_group_accuracy": 0.0},
    ]
    # The worst group is 0 at both epochs: of equals the earlier is taken.
    chosen = {
        "val_accuracy": 1,
        "val_class_balanced_accuracy": 1,
        "val_worst_group_accuracy": 0,
        "last": 1,
        "oracle_test_worst_group_accuracy": 0,
    }
    selectors = {
        name: SelectorScore(
            phase="train",
            epoch=epoch,
            val=scores[epoch],
            test=scores[epoch],
            uses_groups="worst_group" in name,
            oracle=name.startswith("oracle"),
        )
        for name, epoch in chosen.items()
    }
    update = {"selectors": selectors, "selected": {"phase": "train", "epoch": 1}}
    both = {f"{record.id}.predictions.parquet": parquet(pd.concat([val, test], ignore_index=True))}
    return record.model_copy(update=update), {**both, f"{record.id}.epochs.parquet": parquet(epochs)}
