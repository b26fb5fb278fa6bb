"""Right for the right reasons: input gradients are penalised where they should not be (Ross et al. 2017).

    loss = CE + weight * mean_n sum_d ( A_nd * d/dx_nd sum_k log p_nk )^2,   A = 1 where the input is irrelevant

The source takes A from annotations; here it is everything outside the ground truth, a mask or boxes.
"""

from pydantic import Field
from torch.nn import functional as F

from aimbench.baselines.erm import ERMConfig
from aimbench.baselines.gals import GuidedERM, GuidedView
from aimbench.train.api import Batch, Classifier, Loss, Progress, Regime, register_method


class RRRConfig(ERMConfig):
    """Settings of RRR."""

    weight: float = Field(10.0, ge=0)
    """Of the squared gradient outside the object. The source asks for terms of like magnitude and names no value for
    photographs."""


@register_method(
    "rrr",
    regime=Regime(train="masks", select="class"),
    source="Ross, Hughes, Doshi-Velez, IJCAI 2017, arXiv 1703.03717, eq. 1",
)
class RRR(GuidedERM):
    """Squared gradient of the log probabilities penalised outside the ground-truth mask or boxes."""

    Config = RRRConfig

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy plus the squared gradient outside the object."""
        view = GuidedView(model, batch)
        entropy = F.cross_entropy(view.output.logits, batch.label)
        # Summed over samples, whose gradients are their own but for the batch's statistics.
        gradient = view.gradient_of(view.output.logits.log_softmax(dim=1).sum())
        outside = (gradient * view.outside).square().sum(dim=(1, 2, 3)).mean()
        return {"loss": entropy + self.config.weight * outside, "cross_entropy": entropy, "outside": outside}
