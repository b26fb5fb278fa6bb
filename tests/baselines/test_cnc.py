"""The contrastive loss against a naive loop, and the kinds of samples in a batch."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.cnc import CnC, ContrastiveBatches, EmbeddingHead, supervised_contrast
from aimbench.baselines.jtt import JTT
from aimbench.models.backbones import create_pyramid
from aimbench.train.api import Batch, Progress


def test_the_contrastive_loss_is_that_of_a_naive_loop() -> None:
    torch.manual_seed(0)
    anchors, positives, negatives = (F.normalize(torch.randn(n, 5), dim=1) for n in (3, 4, 6))
    terms = []
    for a in anchors:
        total = sum(math.exp(float(a @ other) / 0.1) for other in [*positives, *negatives])
        terms += [-math.log(math.exp(float(a @ p) / 0.1) / total) for p in positives]
    loss = supervised_contrast(anchors, positives, negatives, 0.1)
    torch.testing.assert_close(loss, torch.tensor(sum(terms) / len(terms)), rtol=1e-4, atol=1e-4)


def test_a_batch_holds_anchors_positives_and_both_kinds_of_negatives() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 3, 300)
    predicted = np.where(generator.random(300) < 0.7, label, generator.integers(0, 3, 300))
    every = ContrastiveBatches(label, predicted, 5, balanced=False)
    batches = every(np.random.default_rng(1)).reshape(-1, 4, 5)
    pairs = set()
    for anchors, positives, negatives, others in batches:
        (y,) = set(label[anchors])
        assert set(predicted[anchors]) == {y}
        (z,) = set(predicted[positives])
        assert z != y
        assert set(label[positives]) == {y}
        assert set(predicted[negatives]) == {y}
        assert y not in label[negatives]
        assert set(predicted[others]) == {z}
        assert y not in label[others]
        pairs.add((y, z))
        pools = (label == y) & (predicted == z), (label != y) & (predicted == y), (label != y) & (predicted == z)
        for drawn, pool in zip((positives, negatives, others), pools, strict=True):
            assert len(set(drawn)) == 5 <= pool.sum()  # none twice where there are enough
    assert len(pairs) == 6  # of each class, whichever of the two others ERM predicts
    assert set(batches[:, 0].ravel()) == set(np.flatnonzero(label == predicted))  # every anchor comes


def test_balanced_anchors_are_as_many_batches_of_each_class_as_the_smallest_fills() -> None:
    label = np.repeat([0, 1, 2], [70, 23, 9])
    predicted = label.copy()
    predicted[[0, 1, 71]] = [1, 2, 0]
    predicted[label == 2] = 0  # of the third class ERM knows nothing, so it has no anchors
    balanced = ContrastiveBatches(label, predicted, 5, balanced=True)
    drawn, of_class = [], set()
    for seed in range(30):
        batches = balanced(np.random.default_rng(seed)).reshape(-1, 4, 5)
        assert sorted(label[batches[:, 0, 0]]) == [0] * 5 + [1] * 5  # 22 correct of the second: five batches
        drawn.append(set(batches[:, 0].ravel()))
        of_class.add(tuple(label[batches[:, 0, 0]].tolist()))
    assert len(of_class) > 1  # classes come in an order that is drawn, too
    assert all(set(np.flatnonzero((label == 1) & (predicted == 1))) < one for one in drawn)
    assert set().union(*drawn) == set(np.flatnonzero(label == predicted))  # others every epoch


def test_the_second_phase_weighs_both_sides_of_the_contrast_and_the_cross_entropy() -> None:
    torch.manual_seed(0)
    method = CnC(CnC.configure({"samples": 2, "contrastive_weight": 0.75, "temperature": 0.5}))
    labels = np.repeat([0, 1], 6)
    predicted = np.where(np.arange(12) % 3, labels, 1 - labels)
    run = SimpleNamespace(labels=labels, predict=lambda split: SimpleNamespace(prediction=predicted))
    erm, contrast = method.phases(run)  # type: ignore[arg-type]
    assert (erm.epochs, contrast.epochs) == (1, None)
    longer = CnC(CnC.configure({"erm_epochs": 3, "contrast_epochs": 7})).phases(run)  # type: ignore[arg-type]
    assert [phase.epochs for phase in longer] == [3, 7]
    assert (contrast.start, contrast.settings) == ("pretrained", {"batch_size": 8})
    embedding, logits, label = torch.randn(8, 5), torch.randn(8, 2), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    result: Any = method.loss(
        lambda batch: SimpleNamespace(embedding=embedding, logits=logits),  # type: ignore[arg-type]
        Batch(torch.arange(8), label),
        Progress(0, 1, 0, 1),
    )

    def similar(i: int, j: int) -> float:
        one, other = embedding[i].numpy(), embedding[j].numpy()
        return math.exp(one @ other / np.linalg.norm(one) / np.linalg.norm(other) / 0.5)

    def side(anchors: list[int], positives: list[int], negatives: list[int]) -> float:
        terms = []
        for a in anchors:
            total = sum(similar(a, other) for other in positives + negatives)
            terms += [-math.log(similar(a, p) / total) for p in positives]
        return sum(terms) / len(terms)

    contrastive = (side([0, 1], [2, 3], [4, 5]) + side([2, 3], [0, 1], [6, 7])) / 2
    entropy = float(F.cross_entropy(logits, label))
    assert result["loss"].item() == pytest.approx(0.75 * contrastive + 0.25 * entropy, rel=1e-5)


def test_without_errors_the_class_and_the_other_classes_stand_in() -> None:
    label = np.repeat([0, 1], 20)
    order = ContrastiveBatches(label, label, 4, balanced=True)(np.random.default_rng(0))
    for anchors, positives, negatives, others in order.reshape(-1, 4, 4):
        (y,) = set(label[anchors])
        assert set(label[positives]) == {y}
        assert y not in label[negatives]
        assert y not in label[others]


def test_a_first_phase_without_errors_is_told() -> None:
    said: list[str] = []
    labels = np.repeat([0, 1], 6)
    run = SimpleNamespace(
        labels=labels, predict=lambda split: SimpleNamespace(prediction=labels, errors=lambda: []), warn=said.append
    )
    run.config = SimpleNamespace(epochs=5)
    list(CnC(CnC.configure({})).phases(run))  # type: ignore[arg-type]
    list(JTT(JTT.configure({})).phases(run))  # type: ignore[arg-type]
    assert ["no training error" in line for line in said] == [True, True]


def test_the_embedding_on_a_frozen_backbone_is_a_linear_layer_and_relu_on_standardised_features() -> None:
    torch.manual_seed(0)
    pyramid = create_pyramid("test_resnet.r160_in1k")
    head = CnC(CnC.configure({"width": 6})).build(pyramid, 3, frozen=True)
    assert isinstance(head, EmbeddingHead)
    features = [torch.empty(0)] * 3 + [3 * torch.rand(8, pyramid.channels[-1], 2, 2)]
    output = head(features)
    assert output.embedding is not None
    mean = features[-1].mean(dim=(2, 3))
    x = (mean - mean.mean(dim=0)) / (mean.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = (x @ head.project.weight.T + head.project.bias).clamp(min=0)
    torch.testing.assert_close(output.embedding, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.logits, head.classifier(output.embedding))
    assert output.embedding.shape == (8, 6)


def test_the_contrast_shapes_an_embedding_on_a_frozen_backbone(experiment: Callable[..., Any]) -> None:
    trial = experiment("cnc", settings={"contrastive_weight": 1.0, "samples": 4}, training={"epochs": 1})
    trainer = trial.trainer()
    fresh = trainer.model.head.project.weight.detach().clone()  # of the seed, from which the second phase starts again
    trainer.fit()
    assert isinstance(trial.method, CnC)
    contrast = [entry for entry in trainer.clock.log if entry["phase"] == "contrast"]
    assert contrast[0]["loss"] == contrast[0]["contrastive"]
    trainer.load_state(torch.load(trainer.selected_file, weights_only=True)["model"])
    assert not torch.equal(trainer.model.head.project.weight, fresh)
