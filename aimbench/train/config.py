"""Training settings that every method shares. A method's own settings live with the method."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aimbench.errors import ConfigError, nearest_names
from aimbench.record import without_later
from aimbench.wrong_fields import wrong_fields


class TrainConfig(BaseModel):
    """How a run is trained. Everything here is part of the run's definition."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    train: Literal["head", "last", "all"] = "head"
    """What is trained: the head alone (backbone frozen), also the backbone's last stage, or all of it."""
    epochs: int = Field(20, ge=1)
    """Passes over the training split, for phases that name no number of their own."""
    batch_size: int = Field(64, ge=2)
    """Samples a step; batch norm cannot train on a single one, so an epoch's last sample is left out if it is alone."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD uses momentum 0.9."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the head."""
    backbone_lr: float = Field(1e-4, gt=0)
    """Peak learning rate of the trained part of the backbone."""
    weight_decay: float = Field(1e-4, ge=0)
    """On weights of two or more dimensions; biases and norms are not decayed."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Cosine falls to zero at the end of each phase; step halves after each quarter of it."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which the learning rate rises linearly from zero."""
    image_size: int = Field(224, ge=32)
    """Side of the square network input, in pixels."""
    loader: Literal["indexed", "stream"] = "indexed"
    """How training images are read: ``indexed`` in any order, or ``stream`` through the shards from front to back
    with a shuffle buffer, for sets too large to seek in. A stream's order depends on the number of workers, it
    cannot weight or leave out samples, and it does not use cached features."""
    augment: bool = False
    """Random crop and flip of the training images, as the dataset's card states them."""
    augment_on: Literal["loader", "device"] = "loader"
    """Where they are taken: in the loader, of the photograph; or on the device, of whole batches of photographs
    that were squashed to little more than the network's input, which are kept in memory."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning Fabric's names."""
    channels_last: bool = True
    """Memory layout of images and convolutions."""
    grad_clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""

    def defining(self) -> dict[str, Any]:
        """The settings as a definition holds them: what came later is left out at its default, so that ids stay."""
        return without_later(self.model_dump(mode="json"), {"augment_on": "loader"})


IN_PLANS_ALONE = frozenset({"warmup_epochs", "channels_last", "grad_clip"})
"""Settings that are no options of ``aimbench run``."""


def read_config(values: Mapping[str, Any]) -> TrainConfig:
    """Checked settings.

    Raises:
        ConfigError: a name is unknown or a value out of its range.
    """
    for key in values:
        if key not in TrainConfig.model_fields:
            raise ConfigError(f"unknown training setting '{key}': {nearest_names(key, TrainConfig.model_fields)}")
    config = _checked(values)
    if config.augment_on == "device" and not (config.augment and config.loader == "indexed"):
        raise ConfigError("augment_on 'device' needs --augment and --loader indexed")
    return config


_OF_A_PHASE = (
    *("train", "lr", "backbone_lr", "optimizer", "weight_decay", "schedule", "warmup_epochs", "grad_clip"),
    *("batch_size", "augment"),
)


def for_phase(config: TrainConfig, method: str, phase: str, settings: Mapping[str, Any]) -> TrainConfig:
    """The settings of one phase of a method, which may change some of the run's.

    Raises:
        ConfigError: naming the setting that no phase can change, or whose value does not fit.
    """
    where = f"phase '{phase}' of method '{method}'"
    for name, value in settings.items():
        if name not in _OF_A_PHASE:
            raise ConfigError(f"{where} cannot set '{name}': {nearest_names(name, _OF_A_PHASE)}")
        if name == "train" and value != "head":
            raise ConfigError(f"{where} sets train='{value}': a phase can freeze the backbone (head) and no more")
        if name == "batch_size" and config.loader == "stream":
            raise ConfigError(f"{where} sets its batch size, which a stream cannot; use --loader indexed")
    return _checked({**config.model_dump(), **settings})


def _checked(values: Mapping[str, Any]) -> TrainConfig:
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise ConfigError(wrong_fields(error, TrainConfig, noun="training setting")) from error
