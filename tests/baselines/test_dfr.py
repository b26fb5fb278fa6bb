"""DFR's last layer is scikit-learn's solution, on the samples that the paper takes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from aimbench.baselines import dfr
from aimbench.train.api import ConfigError, GroupCounts, balanced_subset

STRENGTHS = (0.1, 1.0)
"""The last one leaves weights that are not zero; at 0.03 on the mini all of them are."""


@pytest.mark.parametrize("method", ["dfr_val", "dfr_train"])
def test_the_head_is_scikit_learns_solution(method: str, experiment: Callable[..., Any]) -> None:
    settings = {"inverse_strengths": STRENGTHS, "retrains": 3}
    trial = experiment(method, settings=settings, training={"epochs": 1}, selector="last")
    trainer = trial.trainer()
    trainer.fit()  # the last candidate is C = 1
    embeddings = {split: trainer.embed(split) for split in ("train", "val", "test")}
    scaler = StandardScaler().fit(embeddings["train"].embedding)
    fitted_on = "val" if method == "dfr_val" else "train"
    rows, group = embeddings[fitted_on], trial.dataset.split(fitted_on).group
    decisions = []
    for draw in range(3):
        subset = balanced_subset(group, (trial.request.seed, draw))
        model = LogisticRegression(l1_ratio=1.0, C=1.0, solver="liblinear", tol=1e-8, max_iter=10_000)
        model.fit(scaler.transform(rows.embedding[subset]), rows.label[subset])
        decisions.append(model.decision_function(scaler.transform(embeddings["test"].embedding)))
    assert np.abs(decisions).max() > 0.3
    source = trainer.data.evaluation("test")
    with torch.no_grad():
        (logits,) = (trainer.model.eval()(b).logits for b in source.epoch(np.arange(len(source)), 0, batch_size=1000))
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), np.mean(decisions, axis=0), atol=2e-2)


def test_more_than_two_classes_are_one_against_the_rest() -> None:
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 40)
    embedding = generator.normal(size=(120, 5)) + 2 * np.eye(5)[label]
    weight, bias = dfr.logistic_regression(embedding, label, 0.5, "l2", seed=0)
    expected = OneVsRestClassifier(LogisticRegression(l1_ratio=0.0, C=0.5, solver="liblinear")).fit(embedding, label)
    np.testing.assert_array_equal((embedding @ weight.T + bias).argmax(axis=1), expected.predict(embedding))
    np.testing.assert_allclose(embedding @ weight.T + bias, expected.decision_function(embedding), atol=1e-2)


def test_no_validation_sample_is_predicted_by_a_fit_that_saw_it(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[int, np.ndarray]] = []
    original = dfr.DFRVal.fit_balanced

    def recording(self: Any, embedding: Any, *args: Any, **kwargs: Any) -> Any:
        weight, bias = original(self, embedding, *args, **kwargs)
        fits.append((len(embedding), embedding))
        return np.full_like(weight, len(fits)), bias  # a mark: which fit predicted

    def logits_noted(logits: np.ndarray, label: np.ndarray) -> Any:
        noted.append(logits)
        return as_predictions(logits, label)

    noted: list[np.ndarray] = []
    as_predictions = dfr.as_predictions
    monkeypatch.setattr(dfr.DFRVal, "fit_balanced", recording)
    monkeypatch.setattr(dfr, "as_predictions", logits_noted)
    trial = experiment("dfr_val", settings={"inverse_strengths": (0.1,), "retrains": 1}, training={"epochs": 1})
    trial.trainer().fit()
    (whole, everything), (_, first), (_, second) = fits
    assert len(first) + len(second) == whole
    # The mark is the weight's value, so a logit is the sum of the embedding times the mark of its fit.
    marks = noted[0][:, 0] / everything.sum(axis=1)
    by_first = np.isclose(marks, 2, atol=0.2)
    assert by_first.sum() == len(second)
    for row, predicted_by_first in zip(everything, by_first, strict=True):
        fitted = first if predicted_by_first else second
        assert not (fitted == row).all(axis=1).any()


def test_halves_part_every_group() -> None:
    group = np.repeat([0, 1, 3], [20, 5, 2])
    halves = dfr.stratified_halves(group, np.random.default_rng(0))
    assert sorted(np.concatenate(halves)) == list(range(27))
    assert [np.bincount(group[half]).tolist() for half in halves] == [[10, 3, 0, 1], [10, 2, 0, 1]]


def test_held_out_predictions_are_scikit_learns_on_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    group = np.repeat([0, 1, 2, 3], [60, 24, 16, 80])
    label = group // 2
    embedding = generator.normal(size=(180, 4)) + np.outer(label, [3, 0, 0, 0])
    train = SimpleNamespace(embedding=0.5 * generator.normal(size=(50, 4)) - 1)
    run = SimpleNamespace(seed=5, val_groups=group, num_classes=2)
    run.embeddings = {"train": train, "val": SimpleNamespace(embedding=embedding, label=label)}.__getitem__
    monkeypatch.setattr(dfr, "write_head", lambda *_: None)
    _, phase = dfr.DFRVal(dfr.DFRVal.configure({"inverse_strengths": (0.1, 2.0), "retrains": 1})).phases(run)  # type: ignore[arg-type]
    assert phase.fit is not None
    fitted = phase.fit(None, 1)  # type: ignore[arg-type]
    assert fitted.log == {"C": 2.0}
    assert fitted.held_out is not None
    x = (embedding - train.embedding.mean(axis=0)) / train.embedding.std(axis=0)
    halves = dfr.stratified_halves(group, np.random.default_rng([5, 0]))
    for on, other in (halves, halves[::-1]):
        rows = on[balanced_subset(group[on], (5, 0))]
        model = LogisticRegression(l1_ratio=1.0, C=2.0, solver="liblinear", tol=1e-8, max_iter=10_000)
        model.fit(x[rows], label[rows])
        assert np.abs(model.coef_).max() > 0.1 < np.abs(model.intercept_).max()
        expected = model.predict_proba(x[other])[np.arange(len(other)), label[other]]
        np.testing.assert_allclose(fitted.held_out.probability[other], expected, atol=5e-3)
        np.testing.assert_array_equal(fitted.held_out.prediction[other] == label[other], expected > 0.5)


def test_a_group_with_one_validation_sample_is_named_before_training() -> None:
    counts = GroupCounts(2, ["a", "b"], [9, 9], [3, 1])
    with pytest.raises(ConfigError, match="group 'b' has one sample"):
        dfr.DFRVal(dfr.DFRVal.configure({})).check(counts)
    dfr.DFRTrain(dfr.DFRTrain.configure({})).check(counts)


@pytest.mark.slow
def test_the_last_layer_alone_lifts_the_worst_group(experiment: Callable[..., Any]) -> None:
    def worst(method: str) -> float:
        training = {"epochs": 15, "image_size": 96}
        trial = experiment(method, backbone="tf_efficientnet_lite0", weights="auto", training=training, epg_samples=0)
        return float(trial.run().record.metrics["test"].worst_group_accuracy.value)

    assert worst("dfr_val") > worst("erm") + 0.1
