"""A plan: which methods, datasets, backbones, seeds and settings a sweep runs, read from YAML."""

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aimbench.errors import ConfigError
from aimbench.wrong_fields import wrong_fields
from aimbench.yaml_text import parse_yaml

Space = dict[str, Any]
"""A value a key: a constant, a list of choices, or a range such as ``{log_uniform: [1e-4, 1e-2]}``."""

_RANGES = ("uniform", "log_uniform")
_DRAWS_A_TRIAL = 1000  # a space of fewer settings than trials would be drawn from for ever


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MethodPlan(_Strict):
    """One method and what varies in it."""

    method: str
    """Name; see ``aimbench list methods``."""
    preset: str | None = None
    """Named settings of the method."""
    settings: Space = {}
    """Of the method."""
    training: Space = {}
    """Of the training; goes over the plan's own ``training``."""
    datasets: list[str] | None = None
    """Those of the plan's datasets that it runs on, for a method that is not defined on all; None takes all."""


class Search(_Strict):
    """The protocol: ``trials`` settings with one seed, the best on validation then with every seed of the plan."""

    kind: Literal["grid", "random"] = "random"
    """``grid`` takes every combination, of which there must be exactly ``trials``; ``random`` draws ``trials``."""
    trials: int = Field(ge=1)
    """Settings tried for each method, dataset and backbone."""
    seed: int = 0
    """Of the draws and of the trials' runs."""


class Plan(_Strict):
    """Everything that a sweep runs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    """Names the sweep's working folder."""
    methods: list[MethodPlan] = Field(min_length=1)
    datasets: list[str] = Field(min_length=1)
    backbones: list[str] = Field(default=["tf_efficientnet_lite0"], min_length=1)
    weights: str = "auto"
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Of the final runs."""
    training: Space = {}
    """Of every method; may vary too."""
    selector: str | None = None
    """Rule that chooses the epoch; None takes the card's."""
    epg_samples: int | None = Field(default=None, ge=0)
    """Test images that EPG of the final runs uses; None takes all. Trials leave EPG out."""
    search: Search | None = None
    """Without it every combination of settings is a final run with every seed."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Plan":
        for name in ("datasets", "backbones", "seeds"):
            values = getattr(self, name)
            if twice := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"{name} names {', '.join(map(str, sorted(twice)))} more than once")
        drawn = self.search is not None and self.search.kind == "random"
        for method in self.methods:
            for dataset in method.datasets or ():
                if dataset not in self.datasets:
                    raise ValueError(f"dataset '{dataset}' of method '{method.method}' is none of the plan's datasets")
            for key, value in [*method.settings.items(), *self.training.items(), *method.training.items()]:
                _check_values(key, value, drawn=drawn)
        return self

    def points(self, method: MethodPlan) -> list[tuple[Space, Space]]:
        """Settings and training of each run of ``method``, before datasets and seeds; a search's are its trials.

        Raises:
            ConfigError: a grid does not have as many combinations as the search has trials.
        """
        spaces = (method.settings, {**self.training, **method.training})
        if self.search is None:
            return list(_grid(*spaces))
        if self.search.kind == "random":
            return _draws(*spaces, self.search.trials, [self.search.seed, zlib.crc32(method.method.encode())])
        found = list(_grid(*spaces))
        if len(found) != self.search.trials:
            raise ConfigError(
                f"plan '{self.name}': the grid of method '{method.method}' has {len(found)} combinations, not the"
                f" {self.search.trials} trials that every method gets; change its lists or search.trials, or draw"
                " with search.kind: random"
            )
        return found


def read_plan(path: Path) -> Plan:
    """Reads a plan.

    Raises:
        ConfigError: the file is missing, no YAML, or no plan.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"plan {path} can't be read ({error.strerror}); name a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"plan {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"plan {path} is empty or not a mapping; write the fields of a plan into it (docs/plans.md)")
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"plan {path}: {wrong_fields(error, Plan)}") from error


def _check_values(key: str, value: Any, *, drawn: bool) -> None:
    if isinstance(value, list) and not value:
        raise ValueError(f"'{key}' is an empty list of choices")
    if not isinstance(value, dict):
        return
    kind, bounds = next(iter(value.items()), (None, None))
    if len(value) != 1 or kind not in _RANGES:
        raise ValueError(f"'{key}' is a mapping: write one of {', '.join(_RANGES)}, such as {{uniform: [0, 1]}}")
    if not drawn:
        raise ValueError(f"'{key}' is a range, which only search.kind: random can draw from")
    try:
        low, high = map(float, bounds or ())
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high or (kind == "log_uniform" and low <= 0):
        raise ValueError(f"'{key}': {kind} needs [low, high], low below high{' and above 0' * (kind != 'uniform')}")


def _grid(settings: Space, training: Space) -> Iterator[tuple[Space, Space]]:
    choices = [value if isinstance(value, list) else [value] for value in (*settings.values(), *training.values())]
    for values in itertools.product(*choices):
        yield _named(settings, training, values)


def _draws(settings: Space, training: Space, trials: int, seed: list[int]) -> list[tuple[Space, Space]]:
    """Distinct draws; the first takes every first choice and the middle of every range, so a plan begins there."""
    generator = np.random.default_rng(seed)
    spaces = [*settings.values(), *training.values()]
    found = [_named(settings, training, [_first(space) for space in spaces])]
    for _ in range(trials * _DRAWS_A_TRIAL):
        if len(found) >= trials:
            break
        point = _named(settings, training, [_draw(space, generator) for space in spaces])
        if point not in found:
            found.append(point)
    return found


def _named(settings: Space, training: Space, values: Any) -> tuple[Space, Space]:
    rest = iter(values)
    return {key: next(rest) for key in settings}, {key: next(rest) for key in training}


def _first(space: Any) -> Any:
    if isinstance(space, list):
        return space[0]
    if isinstance(space, dict):
        (kind, (low, high)), *_ = space.items()
        return _rounded(math.sqrt(low * high) if kind == "log_uniform" else (low + high) / 2)
    return space


def _draw(space: Any, generator: np.random.Generator) -> Any:
    if isinstance(space, list):
        return space[int(generator.integers(len(space)))]
    if isinstance(space, Mapping):
        (kind, (low, high)), *_ = space.items()
        if kind == "log_uniform":
            return _rounded(math.exp(generator.uniform(math.log(low), math.log(high))))
        return _rounded(generator.uniform(low, high))
    return space


def _rounded(value: float) -> float:
    """To three digits, so that a setting can be typed again."""
    return float(f"{value:.3g}")
