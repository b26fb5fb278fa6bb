"""Live views of a run outside the terminal: TensorBoard and Weights & Biases, as extras. No part of a record."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.utilities.rank_zero import rank_zero_only

from aimbench.errors import ConfigError, nearest_names

VIEWS = ("tensorboard", "wandb")


def check_view(view: str | None) -> None:
    """Checks that a view can be had.

    Raises:
        ConfigError: it is unknown or its library is not installed.
    """
    if view is None:
        return
    if view not in VIEWS:
        raise ConfigError(f"unknown live view '{view}': {nearest_names(view, VIEWS)}")
    if find_spec(view) is None:
        raise ConfigError(f"--log {view} needs a library that is not installed: pip install 'aimbench[{view}]'")


def make_loggers(view: str | None, folder: Path, run_id: str) -> list[Logger]:
    """Fabric's loggers of a view; none for None.

    Args:
        view: one of ``VIEWS``, or None.
        folder: of the run. TensorBoard's files go to ``tensorboard`` inside it, so that one
            ``tensorboard --logdir RUNS`` shows every run and a resumed run goes on with its own curve.
        run_id: of the record.

    Raises:
        ConfigError: the view is unknown or its library is not installed.
    """
    check_view(view)
    if view is None:
        return []
    if view == "tensorboard":
        return [TensorBoardLogger(folder, name="", version="tensorboard")]
    return [WandbLogger(folder, run_id)]


class WandbLogger(Logger):
    """Weights & Biases as a logger of Fabric, which has none of its own.

    Args:
        folder: where its files go, under ``wandb``.
        run_id: a resumed run goes on with the curve of this id.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        import wandb

        self._run_id = run_id
        self._run = wandb.init(project="aimbench", id=run_id, name=run_id, dir=str(folder), resume="allow")

    @property
    def name(self) -> str:
        """Of the project."""
        return "aimbench"

    @property
    def version(self) -> str:
        """Of the run: its record's id."""
        return self._run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends the values of one step."""
        self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Sends settings."""
        self._run.config.update(dict(params))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Sends what still waits."""
        self._run.finish(exit_code=0 if status == "success" else 1)
