"""What a method has by default today, and which runs were made with it."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aimbench.record import with_later

if TYPE_CHECKING:
    from aimbench.results.digest import Digest


class Settings(NamedTuple):
    """What defines a run of a method, besides dataset, backbone, evaluation and seed.

    Attributes:
        config: All settings of the method.
        training: Training settings, as a definition holds them.
        earlier: Settings of the method that records of a time before them lack, with the values of then.
    """

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    earlier: Mapping[str, Any]


def settings_of(name: str, changes: Mapping[str, Any]) -> Settings:
    """Returns what ``aimbench run --method NAME --set ...`` takes today.

    Raises:
        ConfigError: The method or one of the changed settings is unknown, or a value does not fit.
    """
    from aimbench.train.registry import get_method, later_settings

    method = get_method(name)
    config = method.configure(changes).model_dump(mode="json")
    return Settings(config, method.configure_training({}).defining(), later_settings(name))


def at_defaults(runs: "Iterable[Digest]", train: str | None = None) -> "list[Digest]":
    """Returns the runs that ``aimbench run --method NAME`` makes today with no other option than seed and dataset.

    Runs of methods that this installation does not have are left out.

    Args:
        runs: to choose from.
        train: what of the backbone is trained, where ``--train`` is given too.
    """
    return [run for run in runs if _is_default(run, {} if train is None else {"train": train})]


def _is_default(run: "Digest", options: Mapping[str, Any]) -> bool:
    defaults = _defaults(run.method)
    if defaults is None:
        return False
    training = {**defaults.training, **options}
    return with_later(run.config, defaults.earlier) == defaults.config and run.training == training


@cache
def _defaults(name: str) -> Settings | None:
    from aimbench.train.registry import list_methods

    return settings_of(name, {}) if name in {entry.name for entry in list_methods()} else None
