"""The direction of each method as published, on waterbirds@mini: ERM fails the minority groups, balancing helps.

The frozen backbone is small and random, so that its linear head cannot fit the ten minority samples by heart: where
it can, no weighting of the training set changes what is learned (Sagawa et al. 2020), and the published gains need
strong regularisation. DFR, which fits its own head, is tested in test_dfr. IRM, CnC and MaskTune show no clear lift of
the worst group in this set-up (30 test samples a group, features that are not trained); of them the effect is asserted
that their papers explain the lift by.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.baselines.masktune import blackened, hidden_pixels, xgradcam
from aimbench.train import checkpoint
from aimbench.train.loop import Trainer

SEEDS = (0, 1)
TRAINING = {"epochs": 40, "lr": 1e-2}
# A fifth of the mini keeps two birds of the minority groups for AFR's second phase, a half keeps five; its descent is
# short for features of a random network, so it gets four times the steps, at the gentlest gamma of the authors' search.
SETTINGS: dict[str, dict[str, Any]] = {
    "jtt": {"upweight": 20},
    "dfr_train": {"inverse_strengths": [1.0]},
    "afr": {"kept": 0.5, "gamma": 4.0, "steps": 2000},
}


def worst_groups(experiment: Callable[..., Any], method: str) -> list[float]:
    """Test worst-group accuracy of the last epoch, a seed each."""
    run = partial(
        experiment, method, selector="last", epg_samples=0, training=TRAINING, settings=SETTINGS.get(method, {})
    )
    records = [run(seed=seed).run().record for seed in SEEDS]
    return [record.metrics["test"].worst_group_accuracy.value for record in records]


@pytest.fixture(scope="module")
def computed() -> dict[str, list[float]]:
    """ERM's accuracies, computed by the first test that asks."""
    return {}


@pytest.fixture
def erm(experiment: Callable[..., Any], computed: dict[str, list[float]]) -> list[float]:
    """ERM's worst-group accuracies."""
    if not computed:
        computed["erm"] = worst_groups(experiment, "erm")
    return computed["erm"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rwg", "subg", "groupdro", "lisa", "jtt", "lff", "afr", "dfr_train"])
def test_what_balances_groups_or_finds_the_minority_lifts_the_worst_group_where_erm_fails_it(
    method: str, experiment: Callable[..., Any], erm: list[float]
) -> None:
    assert max(erm) < 0.1
    balanced = worst_groups(experiment, method)
    assert min(balanced) > max(erm)
    assert np.mean(balanced) > np.mean(erm) + 0.08


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rwy", "suby", "crt", "mixup"])
def test_what_balances_classes_or_nothing_fails_with_erm(
    method: str, experiment: Callable[..., Any], erm: list[float]
) -> None:
    assert max(worst_groups(experiment, method)) < max(erm) + 0.08


@pytest.mark.slow
def test_guided_gradients_lie_more_on_the_object_than_erms(experiment: Callable[..., Any]) -> None:
    """On images, with the backbone trained: on frozen features of a random network there is little to guide."""
    training = {"train": "all", "epochs": 15, "lr": 1e-3, "backbone_lr": 1e-3}

    def energy_inside(method: str) -> dict[str, float]:
        record = experiment(method, selector="last", epg_samples=64, training=training).run().record
        return {name: score.value for name, score in record.metrics["test"].epg.items()}

    erm = energy_inside("erm")
    for method in ("gals", "rrr"):
        guided = energy_inside(method)
        assert guided["input_x_gradient"] > erm["input_x_gradient"] + 0.01
        assert guided["gradcam"] > erm["gradcam"]


def trained(experiment: Callable[..., Any], method: str, seed: int, **changes: Any) -> Trainer:
    """A trainer with its last model."""
    training = {**TRAINING, **changes.pop("training", {})}
    trainer: Trainer = experiment(method, seed=seed, selector="last", training=training, **changes).trainer()
    trainer.fit()
    trainer.model.eval()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_irms_classifier_gains_less_from_being_rescaled_in_one_place_than_erms(
    seed: int, experiment: Callable[..., Any]
) -> None:
    def largest_penalty(trainer: Trainer) -> float:
        """The larger one of the two places' squared gradients, on the training split."""
        found = trainer.embed("train")
        place = trainer.data.dataset.split("train").group % 2
        with torch.no_grad():
            head: Any = trainer.model.head
            logits = head.classifier(head.standardize(torch.from_numpy(found.embedding)))
        penalties = []
        for p in (0, 1):
            scale = torch.ones((), requires_grad=True)
            members = torch.from_numpy(place == p)
            risk = F.cross_entropy(logits[members] * scale, torch.from_numpy(found.label)[members])
            (gradient,) = torch.autograd.grad(risk, scale)
            penalties.append(float(gradient) ** 2)
        return max(penalties)

    erm = largest_penalty(trained(experiment, "erm", seed))
    irm = largest_penalty(trained(experiment, "irm", seed, settings={"penalty": 1e4}))
    assert irm < erm / 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_cncs_embedding_is_alike_within_a_class_where_cross_entropys_is_alike_within_a_place(
    seed: int, experiment: Callable[..., Any]
) -> None:
    def class_over_place(weight: float) -> float:
        """Cosine of class-mates in different places, less that of place-mates of different classes."""
        trainer = trained(experiment, "cnc", seed, settings={"contrastive_weight": weight})
        embedding = F.normalize(torch.from_numpy(trainer.embed("train").embedding), dim=1)
        group = trainer.data.dataset.split("train").group
        cosine = (embedding @ embedding.T).numpy()

        def between(one: int, other: int) -> float:
            return float(cosine[np.ix_(group == one, group == other)].mean())

        return between(0, 1) / 2 + between(2, 3) / 2 - between(0, 2) / 2 - between(1, 3) / 2

    assert class_over_place(0.0) < 0 < 0.3 < class_over_place(0.75)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_masktunes_last_epoch_teaches_to_do_without_what_erm_looked_at(
    seed: int, experiment: Callable[..., Any]
) -> None:
    """A threshold of 0 hides a third of the image (the mini's heat has no peaks, and 2 hides a hundredth).

    The control spends its last epoch on whole images.
    """

    def losses(threshold: float) -> tuple[float, float]:
        """On training images without what ERM looked at: before and after the last epoch."""
        trainer = trained(
            experiment,
            "masktune",
            seed,
            settings={"threshold": threshold},
            training={"epochs": 20, "schedule": "constant"},
        )
        number = len(trainer.data.dataset.split("train"))
        whole = next(trainer.data.photographs("train", number, region=False).epoch(np.arange(number), seed=0))
        found = []
        for phase in (0, 1):
            trainer.load_state(checkpoint.load(trainer.folder / f"phase-{phase}.pt")["model"])
            trainer.model.eval()
            if phase == 0:
                hidden = hidden_pixels(xgradcam(trainer.model, whole, 64), (64, 64), 0.0)
                assert 0.2 < hidden.float().mean() < 0.5
                without = blackened(whole, hidden, trainer.model.pyramid)
            with torch.no_grad():
                logits = trainer.model(without).logits
            found.append(F.cross_entropy(logits, whole.label).item())
        return found[0], found[1]

    before, after = losses(0.0)
    same_before, after_whole_images = losses(1e6)
    assert before == same_before
    assert after < 0.8 * before
    assert after < 0.9 * after_whole_images
