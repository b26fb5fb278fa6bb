"""SUBG: every group cut once to the size of the smallest (Idrissi et al. 2022)."""

from collections.abc import Iterator

from aimbench.baselines.erm import ERM
from aimbench.train.api import Phase, Regime, Run, balanced_subset, register_method


@register_method(
    "subg",
    regime=Regime(train="groups", select="val_groups"),
    source="Idrissi, Arjovsky, Pezeshki, Lopez-Paz, CLeaR 2022, section 3",
)
class SUBG(ERM):
    """ERM on a group-balanced part of the training set, drawn once."""

    splits_batches = True
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase on the part."""
        yield Phase(subset=balanced_subset(run.groups, run.seed))
