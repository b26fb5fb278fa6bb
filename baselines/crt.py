"""Class-balanced last-layer retraining: train by ERM, then train a new last layer with every class equally often.

The control for DFR: the same second stage without group labels.
"""

from collections.abc import Iterator

from pydantic import Field

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import Phase, Regime, Run, inverse_frequency, register_method


class CRTConfig(ERMConfig):
    """Settings of classifier retraining."""

    retrain_epochs: int | None = Field(None, ge=1)
    """Passes over the training split in which the new last layer is trained. None: as many as for ERM."""


@register_method(
    "crt",
    regime=Regime(train="class", select="class"),
    source="Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, ICLR 2020, arXiv 1910.09217",
)
class CRT(ERM):
    """Backbone of an ERM model kept, a new last layer trained with class-balanced sampling."""

    Config = CRTConfig
    splits_batches = True
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM; then a new head on the frozen backbone, every class drawn equally often."""
        yield Phase("erm")
        yield Phase(
            "retrain",
            epochs=self.config.retrain_epochs,
            start="new_head",
            weights=inverse_frequency(run.labels),
            settings={"train": "head"},
        )
