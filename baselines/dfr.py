"""Deep feature reweighting: train by ERM, then fit the last layer anew on group-balanced data.

    e = embed(x)                                         of the ERM model
    for r in 1..R:  B_r = as many samples of every group as the smallest has, drawn anew
                    w_r, b_r = argmin |w|_1 + C * sum_{B_r} log(1 + exp(-y (w z + b))),  z = (e - mean) / std
    head = mean of (w_r, b_r)

``dfr_val`` draws B_r from the validation split, ``dfr_train`` from the training split. The phase ``retrain``
has one epoch for every C, and the run's selector chooses among them.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from aimbench.baselines.erm import ERM, ERMConfig
from aimbench.train.api import (
    Classifier,
    ConfigError,
    Fitted,
    GroupCounts,
    LinearHead,
    Phase,
    Predictions,
    Regime,
    Run,
    balanced_subset,
    register_method,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class DFRConfig(ERMConfig):
    """Settings of deep feature reweighting."""

    inverse_strengths: tuple[float, ...] = Field((1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01), min_length=1)
    """C of the logistic regression: a small one regularises strongly. One candidate each."""
    penalty: Literal["l1", "l2"] = "l1"
    """Norm of the weights that is penalised."""
    retrains: int = Field(20, ge=1)
    """Balanced subsets drawn anew, whose solutions are averaged."""


class DFRTrainConfig(DFRConfig):
    """Settings of deep feature reweighting on the training split."""

    retrains: int = Field(10, ge=1)
    """Balanced subsets drawn anew, whose solutions are averaged."""


class _DFR(ERM):
    """What both have in common: ERM's loss in the first phase, and the logistic regression."""

    def fit_balanced(
        self, embedding: Floats, label: Ints, group: Ints, strength: float, draws: int, seed: int
    ) -> tuple[Floats, Floats]:
        """Weight ``(K, D)`` and bias ``(K,)`` on standardised embeddings, averaged over ``draws`` balanced subsets."""
        solutions = []
        for draw in range(draws):
            rows = balanced_subset(group, (seed, draw))
            solutions.append(
                logistic_regression(embedding[rows], label[rows], strength, self.config.penalty, seed=seed)
            )
        return np.mean([w for w, _ in solutions], axis=0), np.mean([b for _, b in solutions], axis=0)


@register_method(
    "dfr_val",
    regime=Regime(train="val_groups", select="val_groups"),
    source="Kirichenko, Izmailov, Wilson, ICLR 2023, arXiv 2204.02937",
)
class DFRVal(_DFR):
    """Last layer of an ERM model fitted anew on a group-balanced part of the validation split."""

    Config = DFRConfig

    def check(self, counts: GroupCounts) -> None:
        """Held-out predictions need a sample of every group in either half of the validation split."""
        super().check(counts)
        single = [name for name, number in zip(counts.names, counts.val or (), strict=False) if number == 1]
        if single:
            raise ConfigError(
                f"method '{self.name}' fits on either half of the validation split, but group '{single[0]}' has one"
                " sample there; build a larger part of the dataset, or choose another method"
            )

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM; then the last layer on the validation split, one candidate for every C."""
        yield Phase("erm")
        scaler = StandardScaler().fit(run.embeddings("train").embedding)
        val = run.embeddings("val")
        embedding, label, group = scaler.transform(val.embedding), val.label, run.val_groups
        halves = stratified_halves(group, np.random.default_rng([run.seed, 0]))

        def retrain(model: Classifier, epoch: int) -> Fitted:
            strength = self.config.inverse_strengths[epoch]
            weight, bias = self.fit_balanced(embedding, label, group, strength, self.config.retrains, run.seed)
            write_head(model, weight, bias, scaler)
            logits = np.zeros((len(label), run.num_classes))
            for fitted, held_out in (halves, halves[::-1]):
                weight, bias = self.fit_balanced(
                    embedding[fitted], label[fitted], group[fitted], strength, draws=1, seed=run.seed
                )
                logits[held_out] = embedding[held_out] @ weight.T + bias
            return Fitted({"C": strength}, held_out=as_predictions(logits, label))

        yield Phase("retrain", epochs=len(self.config.inverse_strengths), fit=retrain)


@register_method(
    "dfr_train",
    regime=Regime(train="groups", select="val_groups"),
    source="Kirichenko, Izmailov, Wilson, ICLR 2023, arXiv 2204.02937",
)
class DFRTrain(_DFR):
    """Last layer of an ERM model fitted anew on a group-balanced part of the training split."""

    Config = DFRTrainConfig

    def phases(self, run: Run) -> Iterator[Phase]:
        """ERM; then the last layer on a balanced part of the same training split, one candidate for every C."""
        yield Phase("erm")
        train = run.embeddings("train")
        scaler = StandardScaler().fit(train.embedding)
        embedding, group = scaler.transform(train.embedding), run.groups

        def retrain(model: Classifier, epoch: int) -> Fitted:
            strength = self.config.inverse_strengths[epoch]
            weight, bias = self.fit_balanced(embedding, train.label, group, strength, self.config.retrains, run.seed)
            write_head(model, weight, bias, scaler)
            return Fitted({"C": strength})

        yield Phase("retrain", epochs=len(self.config.inverse_strengths), fit=retrain)


def stratified_halves(group: Ints, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Two halves of all positions, each with half of every group."""
    members = [generator.permutation(np.flatnonzero(group == g)) for g in np.unique(group)]
    return tuple(np.concatenate([positions[part::2] for positions in members]) for part in (0, 1))  # type: ignore[return-value]


def logistic_regression(
    embedding: Floats, label: Ints, strength: float, penalty: str, *, seed: int
) -> tuple[Floats, Floats]:
    """Weight ``(K, D)`` and bias ``(K,)`` of scikit-learn's liblinear; one against the rest for K > 2."""
    model = LogisticRegression(
        C=strength, l1_ratio=float(penalty == "l1"), solver="liblinear", max_iter=1000, random_state=seed
    )
    if len(np.unique(label)) > 2:
        several = OneVsRestClassifier(model).fit(embedding, label)
        return np.stack([m.coef_[0] for m in several.estimators_]), np.stack(
            [m.intercept_[0] for m in several.estimators_]
        )
    model.fit(embedding, label)
    # Half of the decision for one class, half against the other: the same softmax as (0, w z + b), and either
    # class has a weight that attributions can explain.
    half, offset = model.coef_[0] / 2, model.intercept_[0] / 2
    return np.stack([-half, half]), np.array([-offset, offset])


def write_head(model: Classifier, weight: Floats, bias: Floats, scaler: StandardScaler) -> None:
    """Sets the linear head to the solution on embeddings that ``scaler`` standardised."""
    assert isinstance(model.head, LinearHead)
    raw = weight / scaler.scale_
    like = model.head.classifier.weight
    model.head.set_linear(
        torch.as_tensor(raw, dtype=like.dtype, device=like.device),
        torch.as_tensor(bias - raw @ scaler.mean_, dtype=like.dtype, device=like.device),
    )


def as_predictions(logits: Floats, label: Ints) -> Predictions:
    """Predictions and softmax probabilities of the true class."""
    scores = torch.from_numpy(logits).softmax(dim=1).numpy()
    return Predictions(label, scores.argmax(axis=1), scores[np.arange(len(label)), label].astype(np.float32))
