"""What one finished run says, as data: the only thing that passes from training to the results registry.

A record is one JSON file. Its id is a hash of the run's *definition* (method,
configuration, dataset fingerprint, backbone, weights, training settings,
seed, selector, evaluation settings): the same definition is the same record.
Code revision, environment and device are facts about the run, not part of its
definition.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1
ROUNDING_TIPS = 0.01
"""Share of samples that rounding on two machines may tip to another class."""

Kind = Literal["official", "partial", "uncounted", "mini"]
"""Of a dataset's build; ``uncounted`` is what no counts or fingerprint on its card could be held against."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Signed = Annotated[float, Field(ge=-1, le=1)]
_Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Strict):
    """A value in [0, 1] with its 95 % interval."""

    value: _Share
    low: _Share
    high: _Share


class GroupScore(_Strict):
    """Accuracy of one group: ``correct`` of ``n`` samples, with a Wilson interval."""

    n: _Count
    correct: _Count
    accuracy: Interval


class EpgScore(_Strict):
    """Energy Pointing Game of one attribution over a split, in [0, 1].

    ``value`` is the mean over ``n`` samples with ground truth; ``undefined``
    of them had no positive energy and count as 0. ``correct`` and
    ``incorrect`` are the means over samples predicted right and wrong.
    """

    value: _Share
    low: _Share
    high: _Share
    n: _Count
    undefined: _Count
    correct: _Share | None = None
    incorrect: _Share | None = None
    groups: dict[str, _Share] = Field(default_factory=dict)


class HeadScore(_Strict):
    """What one further classifier of the method would have reported, in [0, 1]."""

    accuracy: _Share
    worst_group_accuracy: _Share | None = None


class SplitMetrics(_Strict):
    """Every metric of one split under the record's selector."""

    n: int
    accuracy: Interval = Field(description="Raw accuracy: correct / all.")
    accuracy_reweighted: Interval | None = Field(
        default=None, description="Group accuracies weighted by their share of the training set."
    )
    accuracy_group_mean: Interval | None = Field(default=None, description="Unweighted mean over groups.")
    accuracy_class_balanced: float
    worst_group_accuracy: Interval | None = None
    worst_group: str | None = None
    groups: dict[str, GroupScore] = Field(default_factory=dict)
    empty_groups: list[str] = Field(default_factory=list)
    epg: dict[str, EpgScore] = Field(default_factory=dict)
    epg_region: str | None = Field(default=None, description="Ground truth used: 'mask' or 'boxes'.")
    epg_samples: str | None = Field(default=None, description="'all', or the size and seed of the subset used.")
    heads: dict[str, HeadScore] = Field(
        default_factory=dict,
        description="By name: a stage's classifier, or 'mean' for the mean of all logits.",
    )
    mask_health: dict[str, float] = Field(default_factory=dict, description="Of the method's own mask.")


class Probe(_Strict):
    """One number of ``aimbench probe`` with its 95 % interval, over ``n`` test samples with ground truth.

    An accuracy or an area under a curve, in [0, 1], or ``rfs``, in [-1, 1].
    """

    value: _Signed
    low: _Signed
    high: _Signed
    n: _Count


class SelectorScore(_Strict):
    """What one selector would have reported: its epoch and the headline metrics there."""

    phase: str
    epoch: int
    val: dict[str, _Share]
    test: dict[str, _Share]
    uses_groups: bool
    oracle: bool = False


class MethodInfo(_Strict):
    """The method, with every setting and the labels it consumed."""

    name: str
    source: str
    config: dict[str, Any]
    regime: dict[str, Any]


class DatasetInfo(_Strict):
    """The dataset; ``fingerprint`` is a sha256 over all of its samples."""

    name: str
    variant: str
    kind: Kind
    fingerprint: str


class BackboneInfo(_Strict):
    """The backbone and its weights before training."""

    name: str
    weights: str = Field(description="'none', or where the weights came from.")
    weights_hash: str = Field(description="sha256 of the loaded parameters, 'none' when randomly initialised.")


class SearchInfo(_Strict):
    """How a sweep chose the run's settings: the best of its trials on validation."""

    plan: str
    kind: Literal["grid", "random"]
    trials: int
    finished: int = Field(description="Trials that have a record; the best is chosen among them.")
    trial: str = Field(description="Id of the best trial.")
    score: float = Field(description="Its validation score, in [0, 1].")
    metric: str = Field(description="What the score is.")


class Cost(_Strict):
    """What the run took.

    ``wall_seconds`` adds up over resumed sessions. The first run on a frozen backbone computed the features that later
    ones found on disk, so runs are compared by ``train_images_per_second``.
    """

    parameters: int
    trainable_parameters: int
    gmacs: float | None = Field(default=None, description="Multiply-accumulates of one image's forward pass, in 1e9.")
    wall_seconds: float = Field(ge=0)
    train_images_per_second: float | None = None
    peak_memory_mb: float | None = None


def without_later(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a definition holds them, so that ids stay when a setting is added.

    Args:
        values: All settings.
        later: Those that came after records had been made, with the values that those were made with; at that
            value a setting is left out.
    """
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def with_later(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `without_later`: settings of a definition and, after them, those that it leaves out."""
    return {**values, **{name: value for name, value in later.items() if name not in values}}


class CodeInfo(_Strict):
    """The code that ran; revision and dirty are None outside a git checkout."""

    version: str
    revision: str | None
    dirty: bool | None
    method_source: str | None = Field(
        default=None,
        description="sha256 of the source of the method's own modules; null in older records, and where it changed"
        " while the run was interrupted.",
    )


class Definition(_Strict):
    """Everything that determines a run's outcome. Its hash is the record's id."""

    method: MethodInfo
    dataset: DatasetInfo
    backbone: BackboneInfo
    training: dict[str, Any] = Field(description="Every training setting: epochs, optimiser, precision, ...")
    evaluation: dict[str, Any] = Field(description="Attributions, EPG subset, resolution.")
    seed: int
    selector: str

    @property
    def id(self) -> str:
        """``<method>-<12 hex digits>``, equal for equal definitions."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.method.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


class Record(_Strict):
    """One run: its definition, its metrics, its cost and where it ran."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, alias="schema")
    id: str
    method: MethodInfo
    dataset: DatasetInfo
    backbone: BackboneInfo
    training: dict[str, Any]
    evaluation: dict[str, Any]
    seed: int
    selector: str
    selected: dict[str, Any] = Field(description="Phase and epoch that the selector chose.")
    metrics: dict[str, SplitMetrics] = Field(description="By split: 'val', 'test' and further test conditions.")
    selectors: dict[str, SelectorScore] = Field(default_factory=dict)
    probes: dict[str, Probe] = Field(
        default_factory=dict, description="Added by 'aimbench probe': object or background changed, faithfulness."
    )
    phases: list[dict[str, Any]] = Field(default_factory=list)
    cost: Cost
    search: SearchInfo | None = Field(default=None, description="None if the settings were given by hand.")
    code: CodeInfo
    environment: dict[str, Any]
    created: str = Field(description="UTC, ISO 8601.")
    files: dict[str, str] = Field(
        default_factory=dict, description="sha256 of each Parquet file beside the record, by file name."
    )

    @property
    def definition(self) -> Definition:
        """The part of the record that its id is a hash of."""
        # Its parts were checked with the record.
        return Definition.model_construct(**{name: getattr(self, name) for name in Definition.model_fields})

    @property
    def groups_are_classes(self) -> bool:
        """Whether a group is a class, so that the worst group is the worst class and group labels say no more."""
        groups = self.evaluation.get("groups") or []
        return len(groups) > 0 and len(groups) == self.evaluation.get("num_classes")
