"""Which runs were made with what a method has by default today."""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aimbench.results.digest import Digest


def at_defaults(runs: "Iterable[Digest]") -> "list[Digest]":
    """Returns the runs that ``aimbench run --method NAME`` makes today with no other option than seed and dataset.

    Runs of methods that this installation does not have are left out.
    """
    return [run for run in runs if _defaults(run.method) == (dict(run.config), _training(run))]


def _training(run: "Digest") -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name != "evaluation"}


@cache
def _defaults(name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    from aimbench.train.config import TrainConfig
    from aimbench.train.registry import get_method, list_methods

    if name not in {entry.name for entry in list_methods()}:
        return None
    method = get_method(name)
    return method(method.configure({})).defining(), TrainConfig(**method.training_defaults).defining()
