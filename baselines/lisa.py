"""LISA: mixup of pairs that share the class or the place, but not both (Yao et al. 2022, Algorithm 1).

In each step, for every sample of the batch a partner is drawn from the training set: with probability ``p_label`` of
the same class and another place (intra-label), else of another class and the same place (intra-domain).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.baselines.irm import count_places
from aimbench.baselines.mixup import draw_weight, mixed, mixed_cross_entropy
from aimbench.train.api import Batch, Classifier, Loss, Phase, Progress, Regime, Run, register_method

Positions = npt.NDArray[np.int64]


class LISAConfig(ERMConfig):
    """Settings of LISA."""

    p_label: float = Field(0.5, ge=0, le=1)
    """Probability of a step with intra-label pairs; the others are intra-domain."""
    alpha: float = Field(2.0, gt=0)
    """Of Beta(alpha, alpha), from which the mixing weight is drawn, one a batch."""


@register_method(
    "lisa",
    regime=Regime(train="groups", select="val_groups"),
    source="Yao, Wang, Li, Zhang, Liang, Zou, Finn, ICML 2022, Algorithm 1",
)
class LISA(ERM):
    """Mixup of samples of one class from two places, or of two classes from one place."""

    Config = LISAConfig
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase; a batch holds its samples and then, in the same order, their partners."""
        size = run.config.batch_size
        places = run.groups % count_places(run)

        def order(generator: np.random.Generator) -> Positions:
            return paired_order(run.labels, places, size, self.config.p_label, generator)

        yield Phase(order=order, settings={"batch_size": 2 * size})

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy of the mixed pairs against both labels, weighted as the samples are."""
        weight = draw_weight(self.config.alpha)
        pairs = len(batch) // 2
        partner = torch.arange(pairs, 2 * pairs, device=batch.label.device)
        logits = model(mixed(batch, partner, weight)).logits
        return mixed_cross_entropy(logits, batch.label[:pairs], batch.label[partner], weight)


def paired_order(
    labels: Positions, places: Positions, size: int, p_label: float, generator: np.random.Generator
) -> Positions:
    """One epoch: every sample once, in blocks of ``size``, each block followed by its samples' partners.

    A sample without a possible partner is its own, that is, it is not mixed. A last block of one sample is left out:
    its mixed pair would be a batch of one, on which batch norm cannot train.
    """
    shuffled = generator.permutation(len(labels))
    blocks = []
    for start in range(0, len(shuffled), size):
        block = shuffled[start : start + size]
        if len(block) == 1 < size:
            break
        intra_label = generator.random() < p_label
        blocks += [block, draw_partners(block, labels, places, generator, intra_label=intra_label)]
    return np.concatenate(blocks)


def draw_partners(
    block: Positions, labels: Positions, places: Positions, generator: np.random.Generator, *, intra_label: bool
) -> Positions:
    """A partner for each position in ``block``, drawn uniformly from the training set."""
    shared, other = (labels, places) if intra_label else (places, labels)
    partners = block.copy()
    for s, o in sorted(set(zip(shared[block].tolist(), other[block].tolist(), strict=True))):
        candidates = np.flatnonzero((shared == s) & (other != o))
        members = (shared[block] == s) & (other[block] == o)
        if len(candidates):
            partners[members] = generator.choice(candidates, size=members.sum())
    return partners
