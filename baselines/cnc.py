"""Correct-n-Contrast: pull together what ERM tells apart within a class (Zhang et al. 2022).

f_erm = argmin mean CE(f(x), y);   z = argmax f_erm(x), in place of the spurious attribute
anchors    class y,     z = y          positives  class y,     z = z' (not y)
negatives  not class y, z = y          negatives of the positives: not class y, z = z'
loss = lambda * SupCon + (1 - lambda) * CE,
SupCon = - mean_p log( exp(a.p / T) / (sum_p' exp(a.p' / T) + sum_n exp(a.n / T)) ),  unit vectors a, p, n,
taken from the anchors' side and from the positives' side.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import (
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    LinearHead,
    Loss,
    MethodConfig,
    Output,
    Phase,
    Progress,
    Regime,
    Run,
    register_method,
)

Ints = npt.NDArray[np.int64]


class CnCConfig(ERMConfig):
    """Settings of Correct-n-Contrast."""

    contrastive_weight: float = Field(0.75, ge=0, le=1)
    """Share of the contrastive loss; the rest is cross-entropy."""
    temperature: float = Field(0.1, gt=0)
    """Of the cosine similarities."""
    samples: int = Field(17, ge=1)
    """Anchors of a batch, and as many positives, negatives and negatives of the positives."""
    erm_epochs: int | None = Field(1, ge=1)
    """Epochs of the first phase, whose errors are the positives: one that has fitted all of the training set leaves
    none. None: those of the run."""
    contrast_epochs: int | None = Field(None, ge=1)
    """Epochs of the second phase. None: those of the run."""
    anchors: Literal["balanced", "all"] = "balanced"
    """An epoch has as many batches of anchors of each class as the smallest class fills, or every correctly predicted
    sample as an anchor once."""
    width: int = Field(128, ge=1)
    """Of the embedding that is trained where the backbone is frozen and its own embedding cannot be."""


class EmbeddingHead(LinearHead):
    """A linear layer and ReLU on the frozen embedding, then the classifier: something for the contrast to shape."""

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, *, width: int, standardize: bool) -> None:
        super().__init__(pyramid, num_classes, standardize=standardize)
        self.project = nn.Linear(pyramid.embed_dim, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies the trained embedding ``(N, width)``."""
        embedding = F.relu(self.project(self.standardize(self._embed(features))))
        return Output(logits=self.classifier(embedding), embedding=embedding)


@register_method(
    "cnc",
    regime=Regime(train="class", select="val_groups"),
    source="Zhang, Sohoni, Zhang, Finn, Re, ICML 2022, arXiv 2203.01517",
)
class CnC(ERM):
    """Contrastive training on pairs that an ERM model predicts differently within a class, or alike across classes."""

    Config = CnCConfig
    chooses_samples = True

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._contrasts = False

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The network's own classifier; on a frozen backbone with a trained embedding before it."""
        if not frozen:
            return super().build(pyramid, num_classes, frozen=frozen)
        standardize = True if self.config.standardize is None else self.config.standardize
        return EmbeddingHead(pyramid, num_classes, width=self.config.width, standardize=standardize)

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM; then from the pretrained network with batches made after its predictions."""
        self._contrasts = False
        yield Phase("erm", epochs=self.config.erm_epochs)
        self._contrasts = True
        predicted = run.predict("train").prediction
        if np.array_equal(predicted, run.labels):
            run.warn("ERM made no training error, so CnC has no positives of its own; fewer erm_epochs leave some")
        balanced = self.config.anchors == "balanced"
        batches = ContrastiveBatches(run.labels, predicted, self.config.samples, balanced=balanced)
        yield Phase(
            "contrast",
            epochs=self.config.contrast_epochs,
            start="pretrained",
            order=batches,
            settings={"batch_size": 4 * self.config.samples},
        )

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy; in the second phase with the contrastive loss from both sides."""
        if not self._contrasts:
            return super().loss(model, batch, progress)
        output = model(batch)
        assert output.embedding is not None
        anchors, positives, negatives, others = torch.split(F.normalize(output.embedding, dim=1), self.config.samples)
        contrast = supervised_contrast(anchors, positives, negatives, self.config.temperature)
        mirrored = supervised_contrast(positives, anchors, others, self.config.temperature)
        contrastive = (contrast + mirrored) / 2
        entropy = F.cross_entropy(output.logits, batch.label)
        share = self.config.contrastive_weight
        return {
            "loss": share * contrastive + (1 - share) * entropy,
            "contrastive": contrastive,
            "cross_entropy": entropy,
        }


def supervised_contrast(anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al. 2020), the mean over anchors and positives.

    Args:
        anchor: unit vectors ``(A, D)``.
        positive: unit vectors ``(P, D)``, positives of every anchor.
        negative: unit vectors ``(M, D)``, negatives of every anchor.
        temperature: of the similarities.
    """
    to_positive = anchor @ positive.T / temperature
    to_negative = anchor @ negative.T / temperature
    total = torch.cat([to_positive, to_negative], dim=1).logsumexp(dim=1, keepdim=True)
    return (total - to_positive).mean()


class ContrastiveBatches:
    """The order of an epoch: batches of anchors, positives, negatives, and negatives of the positives.

    Where ERM left no such samples, the nearest substitutes are taken, as in the authors' code: all samples of the
    class as positives, all of other classes as negatives.

    Args:
        label: ``(N,)`` classes.
        predicted: ``(N,)`` classes that ERM predicts.
        samples: of each of the four kinds in a batch.
        balanced: as many batches of each class as the smallest class fills.
    """

    def __init__(self, label: Ints, predicted: Ints, samples: int, *, balanced: bool) -> None:
        self.label = label
        self.predicted = predicted
        self.samples = samples
        self.balanced = balanced

    def __call__(self, generator: np.random.Generator) -> Ints:
        """Positions, four times ``samples`` a batch."""
        correct = [np.flatnonzero((self.label == y) & (self.predicted == y)) for y in np.unique(self.label)]
        of_classes = [generator.permutation(anchors) for anchors in correct if len(anchors)]
        counts = [-(-len(anchors) // self.samples) for anchors in of_classes]
        batches: list[Ints] = []
        for anchors, count in zip(of_classes, counts, strict=True):
            for start in range(0, self.samples * (min(counts) if self.balanced else count), self.samples):
                chunk = anchors[start : start + self.samples]
                filling = generator.choice(anchors, self.samples - len(chunk))
                y = int(self.label[anchors[0]])
                batches.append(np.concatenate([chunk, filling, *self._contrasts(y, generator)]))
        order = generator.permutation(len(batches))
        return np.concatenate([batches[i] for i in order])

    def _contrasts(self, y: int, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        of_class = self.label == y
        wrong = np.flatnonzero(of_class & (self.predicted != y))
        other = int(self.predicted[generator.choice(wrong)]) if len(wrong) else y
        return (
            self._draw(of_class & (self.predicted == other), of_class, generator),
            self._draw(~of_class & (self.predicted == y), ~of_class, generator),
            self._draw(~of_class & (self.predicted == other), ~of_class, generator),
        )

    def _draw(
        self, wanted: npt.NDArray[np.bool_], substitute: npt.NDArray[np.bool_], generator: np.random.Generator
    ) -> Ints:
        pool = np.flatnonzero(wanted if wanted.any() else substitute)
        return generator.choice(pool, self.samples, replace=len(pool) < self.samples)
