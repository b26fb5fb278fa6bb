"""LfF: a biased network is trained to be biased, and its failures weight a second one (Nam et al. 2020, Algorithm 1).

The biased network f_b minimises the generalised cross-entropy, which favours what is easy already; the debiased one
f_d, which predicts, minimises a cross-entropy weighted by relative difficulty::

    GCE(x, y) = (1 - p_y^q) / q            gradient: p_y^q * gradient of the cross-entropy
    W(x) = l_b / (l_b + l_d)               l: running mean of the sample's cross-entropy / largest of its class
    minimise  mean GCE(f_b)  and  mean W * CE(f_d)
"""

import copy
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERMConfig
from aimbench.train.api import (
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    LinearHead,
    Loss,
    Method,
    Output,
    Phase,
    Progress,
    Regime,
    Run,
    register_method,
)

EPSILON = 1e-8


class LfFConfig(ERMConfig):
    """Settings of LfF."""

    q: float = Field(0.7, gt=0, le=1)
    """Exponent of the generalised cross-entropy; near 0 it is the cross-entropy."""
    scale_by_q: bool = True
    """Multiply the biased loss by q, as the authors' code does and the paper's equation does not."""
    decay: float = Field(0.7, ge=0, lt=1)
    """Of the running mean of a sample's loss: what is kept of the old value."""


class TwoNetworks(LinearHead):
    """The debiased classifier, which predicts, and the biased network beside it.

    The biased network is a backbone and a head of its own; on a frozen backbone, which both would share, a head.
    """

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool, standardize: bool) -> None:
        super().__init__(pyramid, num_classes, standardize=standardize)
        own = pyramid if frozen else copy.deepcopy(pyramid)
        head = LinearHead(own, num_classes, standardize=standardize)
        self.biased: LinearHead | Classifier = head if frozen else Classifier(own, head)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """The debiased prediction; in training on a frozen backbone, the biased head's logits beside it."""
        output = super().forward(features)
        if self.training and isinstance(self.biased, LinearHead):
            output.stage_logits["biased"] = self.biased(features).logits
        return output

    def biased_logits(self, output: Output, batch: Batch) -> Tensor:
        """The biased network's logits ``(N, K)`` for the batch that gave ``output``."""
        if isinstance(self.biased, LinearHead):
            return output.stage_logits["biased"]
        logits: Tensor = self.biased(batch).logits
        return logits


@register_method(
    "lff",
    regime=Regime(train="class", select="val_groups"),
    source="Nam, Cha, Ahn, Lee, Shin, NeurIPS 2020, Algorithm 1",
)
class LfF(Method):
    """Two networks: one learns what is easy, the other what the first one fails on."""

    Config = LfFConfig

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The debiased classifier with the biased network beside it."""
        standardize = frozen if self.config.standardize is None else self.config.standardize
        return TwoNetworks(pyramid, num_classes, frozen=frozen, standardize=standardize)

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase; no sample has a running loss yet."""
        size = len(run.labels)
        self._classes = run.num_classes
        self.state = {
            "labels": torch.from_numpy(run.labels),
            "biased": torch.full((size,), torch.nan),
            "debiased": torch.full((size,), torch.nan),
        }
        yield Phase()

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Generalised cross-entropy of the biased network plus weighted cross-entropy of the debiased one."""
        head: TwoNetworks = model.head  # type: ignore[assignment]
        output = model(batch)
        debiased = F.cross_entropy(output.logits, batch.label, reduction="none")
        biased_logits = head.biased_logits(output, batch)
        biased = F.cross_entropy(biased_logits, batch.label, reduction="none")
        weight = self._difficulty(batch, biased.detach(), debiased.detach())
        easy = generalised_cross_entropy(biased_logits, batch.label, self.config.q)
        if self.config.scale_by_q:
            easy = easy * self.config.q
        return {"loss": easy.mean() + (weight * debiased).mean(), "biased ce": biased.mean(), "weight": weight.mean()}

    def _difficulty(self, batch: Batch, biased: Tensor, debiased: Tensor) -> Tensor:
        """W ``(N,)`` of the batch's samples, after their running losses took in the new ones."""
        index, label = batch.index.to(biased.device), batch.label
        # No step waits for a GPU: the running losses stay where the batches are.
        self.state = {name: value.to(biased.device) for name, value in self.state.items()}
        shares = []
        for name, losses in (("biased", biased), ("debiased", debiased)):
            running = running_mean(self.state[name][index], losses, self.config.decay)
            self.state[name][index] = running
            shares.append(running / largest_by_class(self.state[name], self.state["labels"], self._classes)[label])
        return shares[0] / (shares[0] + shares[1] + EPSILON)


def generalised_cross_entropy(logits: Tensor, label: Tensor, q: float) -> Tensor:
    """``(1 - p_y^q) / q``, ``(N,)`` (Zhang and Sabuncu 2018)."""
    # By the logarithm: p^q has no finite derivative where p is 0 in floating point.
    log_probability = logits.log_softmax(dim=1).gather(1, label[:, None])[:, 0]
    return -torch.expm1(q * log_probability) / q


def running_mean(old: Tensor, new: Tensor, decay: float) -> Tensor:
    """Exponential running mean; NaN stands for no value yet."""
    return torch.where(old.isnan(), new, decay * old + (1 - decay) * new)


def largest_by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The largest of ``values`` ``(N,)`` in each class, ``(K,)``; NaN and missing classes count as 0."""
    largest = values.new_zeros(classes)
    return largest.scatter_reduce(0, labels, values.nan_to_num(0.0), "amax")
