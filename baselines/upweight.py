"""UpWeight: a class-weighted cross-entropy, the baseline of the GALS paper's tables (Petryk et al. 2022).

loss = sum_n w_{y_n} CE_n / sum_n w_{y_n};   w_y = (1 / n_y) / max_k (1 / n_k), n_y the training size of class y
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from aimbench.baselines.erm import ERM
from aimbench.train.api import Batch, Classifier, Loss, Phase, Progress, Regime, Run, batch_sum, register_method


@register_method(
    "upweight",
    regime=Regime(train="class", select="class"),
    source="Petryk, Dunlap, Nasseri, Gonzalez, Darrell, Rohrbach, CVPR 2022, arXiv 2202.08926",
)
class UpWeight(ERM):
    """ERM whose samples weigh as much as their class is rare."""

    splits_batches = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase; the rarest class has weight 1, a class without samples 0."""
        counts = torch.bincount(torch.from_numpy(run.labels), minlength=run.num_classes)
        inverse = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
        self.state = {"weights": inverse / inverse.max()}
        yield Phase()

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """The batch's cross-entropy, weighted by class."""
        losses = F.cross_entropy(model(batch).logits, batch.label, reduction="none")
        self.state["weights"] = self.state["weights"].to(losses.device)
        weight = self.state["weights"][batch.label]
        return batch_sum((weight * losses).sum()) / batch_sum(weight.sum())
