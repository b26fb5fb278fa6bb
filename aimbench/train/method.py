"""What a method is: a head, a loss and, where it needs several, its phases.

The engine alone owns optimiser, precision, devices, checkpoints, logging and
evaluation. A method never sees test data, groups or masks unless its regime
declares them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError, nearest_names
from aimbench.models.backbones import FeaturePyramid
from aimbench.models.classifier import Classifier, Head, LinearHead, Output
from aimbench.needs import MEANING, GroupCounts, unmet
from aimbench.record import without_later
from aimbench.train.config import IN_PLANS_ALONE, TrainConfig, read_config
from aimbench.train.phase import Phase, Progress
from aimbench.train.registry import later_settings, method_card
from aimbench.wrong_fields import wrong_fields

if TYPE_CHECKING:
    from aimbench.train.run import Run

Loss = Tensor | Mapping[str, Tensor]


class Regime(BaseModel):
    """The labels that a method consumes.

    Attributes:
        train: read in training: ``none``, ``class``, ``groups`` (of the training set), ``masks``, or
            ``val_groups``: the method also trains on the validation split and reads its groups.
        select: read to choose epoch and settings: ``none``, ``class`` or ``val_groups``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    train: Literal["none", "class", "groups", "masks", "val_groups"] = "class"
    select: Literal["none", "class", "val_groups"] = "class"

    @property
    def fields(self) -> frozenset[str]:
        """Entries of a batch that this regime opens beyond image and label."""
        return frozenset({"groups": {"group"}, "masks": {"mask"}}.get(self.train, set()))


class MethodConfig(BaseModel):
    """Base of every method's settings; unknown ones, infinity and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Method:
    """Base of every method. Only ``loss`` is required.

    Class attributes that a method may set:
        Config: its settings.
        training_defaults: training settings that differ from the harness's, e.g. ``{"batch_size": 64}``.
            What the user gives on the command line wins.
        presets: named sets of settings, e.g. those of a paper's table.
        needs_images: the loss works on pixels, so cached features of a frozen backbone do not do.
        chooses_samples: some phase weights, orders, repeats or leaves out samples, which a stream cannot.
        differentiates_gradients: the loss holds a gradient of the model's output (``create_graph=True``), which
            torch.compile cannot differentiate and which vanishes in half precision, where no scaler reaches it.
        splits_batches: several processes may share a batch: the loss is a mean over its samples, or takes what
            it needs of the whole batch by ``batch_mean``, ``batch_sum`` and ``uniform_like``, and no phase sets
            the head itself. Not inherited: a subclass says so again for its own loss and phases.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs_images: ClassVar[bool] = False
    chooses_samples: ClassVar[bool] = False
    differentiates_gradients: ClassVar[bool] = False
    splits_batches: ClassVar[bool] = False

    state: dict[str, Tensor]
    """What training carries from step to step beside the model, such as running losses. Set it up in ``phases``;
    it is saved with every checkpoint and put back when a killed run goes on."""

    # Filled in by ``register_method``.
    name: ClassVar[str]
    regime: ClassVar[Regime]
    source: ClassVar[str]

    def __init__(self, config: MethodConfig) -> None:
        self.config: Any = config
        self.state = {}

    def check(self, counts: GroupCounts) -> None:
        """Says before anything is built or trained that the method is undefined on a dataset.

        This looks at what the method's card needs; a method whose settings decide adds its own.

        Raises:
            ConfigError: naming what the dataset lacks.
        """
        card = method_card(self.name)
        for need in card.needs if card is not None else ():
            reason = unmet(need, counts)
            if reason is not None:
                raise ConfigError(
                    f"method '{self.name}' is undefined on this dataset: {reason}, but it needs that {MEANING[need]};"
                    " choose another method or dataset ('aimbench list methods' shows where each is undefined)"
                )

    def check_training(self, config: TrainConfig, *, compiled: bool) -> None:
        """Says before anything is built that the method cannot be trained like this.

        Raises:
            ConfigError: naming the option and the mend.
        """
        if self.chooses_samples and config.loader == "stream":
            raise ConfigError(
                f"method '{self.name}' weights, orders or leaves out samples, which a stream cannot; use --loader"
                " indexed"
            )
        if not self.differentiates_gradients:
            return
        if compiled:
            raise ConfigError(f"method '{self.name}' differentiates a gradient, which --compile cannot; leave it out")
        if config.precision == "16-mixed":
            raise ConfigError(
                f"method '{self.name}' penalises gradients too small for --precision 16-mixed; give bf16-mixed or"
                " 32-true"
            )

    def defining(self) -> dict[str, Any]:
        """The settings as a definition holds them: what its card calls ``later`` is left out at the earlier value."""
        return without_later(self.config.model_dump(mode="json"), later_settings(self.name))

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The head on the backbone. ``frozen`` says that the backbone will not be trained."""
        return LinearHead(pyramid, num_classes, standardize=frozen)

    def phases(self, run: Run) -> Iterator[Phase]:
        """The algorithm, read top to bottom. ``run`` answers what a phase may ask of earlier ones."""
        yield Phase()

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """What to minimise: a scalar, or a mapping with ``loss`` and further scalars to log."""
        raise ConfigError(
            f"method '{self.name}' has no loss: define loss(self, model, batch, progress) in {type(self).__module__}"
        )

    def learning_rates(self) -> Mapping[str, float]:
        """Factors on the learning rate by prefix of the head's parameter names, e.g. ``{"masks": 0.1}``."""
        return {}

    def explain(self, output: Output) -> Tensor | None:
        """The method's own map of where it looked, ``(N, h, w)`` in [0, 1], or None."""
        return None

    @classmethod
    def configure(cls, settings: Mapping[str, Any], preset: str | None = None) -> MethodConfig:
        """Validates settings on top of a preset.

        Raises:
            ConfigError: a setting or preset is unknown, or a value does not fit.
        """
        values: dict[str, Any] = {}
        if preset is not None:
            if preset not in cls.presets:
                raise ConfigError(f"method '{cls.name}' has no preset '{preset}': {nearest_names(preset, cls.presets)}")
            values.update(cls.presets[preset])
        known = cls.Config.model_fields
        for key, value in settings.items():
            if key not in known:
                raise ConfigError(f"method '{cls.name}' has no setting '{key}': {_hint(key, known)}")
            values[key] = value
        try:
            return cls.Config(**values)
        except ValidationError as error:
            problems = wrong_fields(error, cls.Config, noun="setting")
            raise ConfigError(f"method '{cls.name}': {problems}; see 'aimbench list methods {cls.name}'") from error

    @classmethod
    def configure_training(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Validates training settings on top of the method's own defaults; raises as ``read_config``."""
        return read_config({**cls.training_defaults, **settings})


def _hint(key: str, known: Collection[str]) -> str:
    if key in TrainConfig.model_fields:
        option = "" if key in IN_PLANS_ALONE else f"--{key.replace('_', '-')} on the command line, "
        return f"it is one of the training, {option}'{key}' under 'training' in a plan"
    if not known:
        return "it has none (its class names those that it has as 'Config = ...')"
    return nearest_names(key, known)
