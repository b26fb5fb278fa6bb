"""RWG: training batches drawn so that every group is equally frequent (Idrissi et al. 2022)."""

from collections.abc import Iterator

from aimbench.baselines.erm import ERM
from aimbench.train.api import Phase, Regime, Run, inverse_frequency, register_method


@register_method(
    "rwg",
    regime=Regime(train="groups", select="val_groups"),
    source="Idrissi, Arjovsky, Pezeshki, Lopez-Paz, CLeaR 2022, section 3",
)
class RWG(ERM):
    """ERM on samples drawn with weight 1 / size of their group."""

    splits_batches = True
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase with group-balanced draws."""
        yield Phase(weights=inverse_frequency(run.groups))
