"""What a person or a live view is told at the end of an epoch."""

from collections.abc import Mapping
from typing import Any

from lightning_fabric import Fabric

from aimbench.metrics.health_words import summary, warnings
from aimbench.metrics.selectors import EpochScore
from aimbench.train.progress import Reporter


class EpochReport:
    """Tells of each epoch, in the terminal and to the loggers of ``fabric``."""

    def __init__(self, fabric: Fabric, reporter: Reporter) -> None:
        self._fabric = fabric
        self._reporter = reporter
        self._warned: list[str] = []  # what was wrong with the masks at the end of the last epoch

    def tell(
        self, title: str, log: Mapping[str, Any], score: EpochScore, health: Mapping[str, float], step: int
    ) -> None:
        """One line, the values for the live views, and the state of the masks.

        Args:
            title: phase and number of the epoch.
            log: what the epoch logged.
            score: of the epoch.
            health: of the method's own masks on the validation split, empty where there are none.
            step: epochs of all phases so far.
        """
        logged = {k: v for k, v in log.items() if isinstance(v, float) and not k.startswith("val ")}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in logged.items())
        val = score.val
        self._fabric.log_dict(
            {**{f"train/{k}": v for k, v in logged.items()}, **{f"val/{k}": v for k, v in val.items()}}, step=step
        )
        for logger in self._fabric.loggers:
            logger.save()
        self._reporter.line(
            f"{title}  {shown}  val accuracy {val['accuracy']:.3f}  worst group {val['worst_group_accuracy']:.3f}"
        )
        if health:
            # While a target is still being reached, masks that are open are as they should be.
            self._masks(health, warnings(health) if score.is_candidate else [])

    def _masks(self, health: Mapping[str, float], found: list[str]) -> None:
        self._reporter.line(f"  masks on val: {summary(health)}")
        for warning in found:
            if warning not in self._warned:
                self._reporter.warn(f"val: {warning}")
        self._warned = found
