"""Automatic feature reweighting: the last layer again, on what the ERM model gets wrong (Qiu et al. 2023).

f = ERM on a part of the training set; (x_i, y_i) the samples that were kept from it
w_i  ~  exp(-gamma * p_i) / n_(y_i),  sum_i w_i = 1;   p_i = f's probability of the true class
minimise  sum_i w_i CE(W e_i + b, y_i) + pull * (|W - W_0|^2 + |b - b_0|^2)   over the last layer, from (W_0, b_0)
"""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import Classifier, Fitted, LinearHead, Phase, Regime, Run, register_method


class AFRConfig(ERMConfig):
    """Settings of automatic feature reweighting."""

    kept: float = Field(0.2, gt=0, lt=1)
    """Share of the training set that ERM does not see and the last layer is fitted on."""
    gamma: float = Field(10.0, ge=0)
    """How sharply samples that the ERM model is sure of lose weight; 0 only balances the classes. The authors search
    4 to 20."""
    pull: float = Field(0.0, ge=0)
    """Weight of the squared distance from ERM's last layer. The authors search 0 to 0.3."""
    reweighting_lr: float = Field(0.01, gt=0)
    """Learning rate of the gradient descent on the last layer."""
    reweighting_clip: float = Field(1.0, gt=0)
    """Largest norm of that descent's gradient."""
    steps: int = Field(500, ge=1)
    """Of gradient descent, each over all samples kept."""
    candidates: int = Field(10, ge=1)
    """Equal parts of the steps, after each of which the selector may stop."""


@register_method(
    "afr",
    regime=Regime(train="class", select="val_groups"),
    source="Qiu, Potapczynski, Izmailov, Wilson, ICML 2023, arXiv 2306.11074",
)
class AFR(ERM):
    """Last layer of an ERM model refitted on held-out samples, those that it gets wrong weighing most."""

    Config = AFRConfig
    chooses_samples = True

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM on a part of the training set; gradient descent on the last layer with the rest."""
        order = np.random.default_rng(run.seed).permutation(len(run.labels))
        kept, seen = np.split(order, [max(1, round(self.config.kept * len(order)))])
        yield Phase("erm", subset=seen)
        embedding = torch.from_numpy(run.embeddings("train").embedding[kept])
        label = torch.from_numpy(run.labels[kept])
        certainty = torch.from_numpy(run.predict("train").probability[kept])
        weight = afr_weights(certainty, label, self.config.gamma)

        def descend(model: Classifier, epoch: int) -> Fitted:
            assert isinstance(model.head, LinearHead)
            layer = model.head.classifier
            if epoch == 0:
                self.state = {"weight": layer.weight.detach().clone(), "bias": layer.bias.detach().clone()}
            first, last = (self.config.steps * part // self.config.candidates for part in (epoch, epoch + 1))
            x, y, w = (tensor.to(layer.weight.device) for tensor in (embedding, label, weight))
            x = model.head.standardize(x)
            optimizer = torch.optim.SGD(layer.parameters(), lr=self.config.reweighting_lr)
            for _ in range(first, last):
                loss = self.objective(layer, x, y, w)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(layer.parameters(), self.config.reweighting_clip)
                optimizer.step()
            return Fitted({"loss": float(self.objective(layer, x, y, w).detach())})

        yield Phase("reweight", epochs=self.config.candidates, fit=descend)

    def objective(self, layer: torch.nn.Linear, x: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """The weighted cross-entropy and the pull towards ERM's last layer (in ``state``)."""
        entropy = F.cross_entropy(layer(x), label, reduction="none")
        start = {name: value.to(x) for name, value in self.state.items()}
        distance = (layer.weight - start["weight"]).square().sum() + (layer.bias - start["bias"]).square().sum()
        total: Tensor = (weight * entropy).sum() + self.config.pull * distance
        return total


def afr_weights(certainty: Tensor, label: Tensor, gamma: float) -> Tensor:
    """Weights ``(N,)`` that sum to 1: exp(-gamma * p) over the size of the sample's class.

    Args:
        certainty: p ``(N,)``, ERM's probability of the true class.
        label: ``(N,)``.
        gamma: not negative.
    """
    weight = torch.exp(-gamma * certainty) / torch.bincount(label)[label]
    return weight / weight.sum()
