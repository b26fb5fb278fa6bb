"""What tables need of a record: small enough that a registry of ten thousand runs is read in a second."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aimbench.metrics.health_words import hides_nothing, warnings
from aimbench.record import EpgScore, Interval, Kind, Record

TEST = "test"
CONDITION_PREFIX = "test_"
# They follow from the dataset's fingerprint, and with 200 species they are most of a record's definition.
_FROM_FINGERPRINT = {"groups", "train_group_counts", "num_classes"}


class Score(NamedTuple):
    """One metric of one run as fractions in [0, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Digest:
    """One run, as tables and rankings see it.

    Attributes:
        id: Id of the record.
        dataset: Name of the dataset.
        variant: Its variant.
        kind: ``official``, ``partial``, ``uncounted`` or ``mini``.
        fingerprint: sha256 over the dataset's samples.
        backbone: Name of the backbone.
        weights: Where its weights came from.
        weights_hash: sha256 of the weights.
        selector: How the epoch was chosen.
        oracle_selector: Whether that selector read the test set.
        method: Name of the method.
        regime: Labels that the method consumed.
        config: The method's settings.
        settings: Training settings, and under ``evaluation`` those of the evaluation.
        row_key: Equal for runs of a table that differ in their seed alone.
        seed: Seed of the run.
        scores: Test metrics by column key, such as ``epg_gradcam`` or ``test_black_accuracy``.
        worst_group: Name of the worst test group, if there are groups.
        empty_groups: Groups without a test sample.
        samples: Number of test samples.
        mask_warnings: What is wrong with the method's own masks on the test samples, in words.
        open_masks: Whether the method has masks that are open everywhere for most test samples.
        without_energy: Share of the test samples by attribution that had no positive energy, so that their EPG is 0;
            attributions without such a sample are left out.
        groups_are_classes: Whether each class is a group of its own.
        trained: Number of parameters that were trained.
        gmacs: Multiply-accumulates of one image's forward pass, in 1e9.
        seconds: Wall time of the run, on its machine and under its load.
        revision: Code revision that ran.
        dirty: Whether that code had uncommitted changes.
        created: When, UTC.
    """

    id: str
    dataset: str
    variant: str
    kind: Kind
    fingerprint: str
    backbone: str
    weights: str
    weights_hash: str
    selector: str
    oracle_selector: bool
    method: str
    regime: Mapping[str, Any]
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    row_key: tuple[str, ...]
    seed: int
    scores: Mapping[str, Score]
    worst_group: str | None
    empty_groups: tuple[str, ...]
    samples: int
    mask_warnings: tuple[str, ...]
    open_masks: bool
    without_energy: Mapping[str, float]
    groups_are_classes: bool
    trained: int
    gmacs: float | None
    seconds: float
    revision: str | None
    dirty: bool | None
    created: str

    @property
    def epg_region(self) -> str:
        """What EPG counts as the object: ``mask`` (boxes where a sample has none) or always ``boxes``."""
        return str(self.settings["evaluation"].get("epg_region", "mask"))

    @property
    def training(self) -> dict[str, Any]:
        """The training settings alone."""
        return {name: value for name, value in self.settings.items() if name != "evaluation"}

    @property
    def is_trained(self) -> bool:
        """Whether the run was trained here, not only evaluated."""
        return bool(self.training) and "external" not in self.training

    @property
    def table_key(self) -> tuple[str, ...]:
        """Equal for runs that may be compared."""
        dataset = (self.dataset, self.variant, self.kind, self.fingerprint)
        return (*dataset, self.backbone, self.weights_hash, self.selector, self.epg_region)


def digest(record: Record) -> Digest:
    """Returns what tables need of a record."""
    test = record.metrics.get(TEST)
    selected = record.selectors.get(record.selector)
    evaluation = {key: value for key, value in record.evaluation.items() if key not in _FROM_FINGERPRINT}
    method, settings = record.method, {**record.training, "evaluation": evaluation}
    return Digest(
        id=record.id,
        dataset=record.dataset.name,
        variant=record.dataset.variant,
        kind=record.dataset.kind,
        fingerprint=record.dataset.fingerprint,
        backbone=record.backbone.name,
        weights=record.backbone.weights,
        weights_hash=record.backbone.weights_hash,
        selector=record.selector,
        oracle_selector=selected is not None and selected.oracle,
        method=method.name,
        regime=method.regime,
        config=method.config,
        settings=settings,
        row_key=(method.name, *(json.dumps(part, sort_keys=True) for part in (method.regime, method.config, settings))),
        seed=record.seed,
        scores=_scores(record),
        worst_group=test.worst_group if test else None,
        empty_groups=tuple(test.empty_groups) if test else (),
        samples=test.n if test else 0,
        mask_warnings=tuple(warnings(test.mask_health)) if test else (),
        open_masks=test is not None and hides_nothing(test.mask_health),
        without_energy={name: s.undefined / s.n for name, s in test.epg.items() if s.undefined} if test else {},
        groups_are_classes=record.groups_are_classes,
        trained=record.cost.trainable_parameters,
        gmacs=record.cost.gmacs,
        seconds=record.cost.wall_seconds,
        revision=record.code.revision,
        dirty=record.code.dirty,
        created=record.created,
    )


def _scores(record: Record) -> dict[str, Score]:
    found: dict[str, Interval | EpgScore | None] = {}
    if (test := record.metrics.get(TEST)) is not None:
        found = {
            "accuracy": test.accuracy,
            "accuracy_reweighted": test.accuracy_reweighted,
            "accuracy_group_mean": test.accuracy_group_mean,
            "worst_group_accuracy": test.worst_group_accuracy,
            **{f"epg_{name}": score for name, score in test.epg.items()},
        }
    for split, metrics in record.metrics.items():
        if split.startswith(CONDITION_PREFIX):
            found[f"{split}_accuracy"] = metrics.accuracy
    return {key: Score(score.value, score.low, score.high) for key, score in found.items() if score is not None}
