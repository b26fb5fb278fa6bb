"""Phases that go beyond drawing samples: fits, orders, kept optimisers, new heads; and what a run may be asked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.errors import ConfigError, RegimeError
from aimbench.metrics.groups import headline
from aimbench.train import checkpoint
from aimbench.train.api import Batch, Classifier, Fitted, Loss, Method, Phase, Predictions, Progress, Run
from aimbench.train.optim import set_learning_rate
from aimbench.train.run import _names_damage

Define = Callable[..., type[Method]]


class CrossEntropy(Method):
    """ERM whose phases each test gives."""

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        return F.cross_entropy(model(batch).logits, batch.label)


def constant_head(model: Classifier, favoured: int) -> None:
    """A head that always says one class."""
    bias = torch.zeros(2)
    bias[favoured] = 1
    model.head.set_linear(torch.zeros_like(model.head.classifier.weight), bias)  # type: ignore[operator,union-attr]


def test_a_fit_sets_the_head_and_every_epoch_of_it_is_a_candidate(
    define: Define, experiment: Callable[..., Any]
) -> None:
    class Constant(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("erm", epochs=1)
            yield Phase("constants", epochs=2, fit=fit)

    def fit(model: Classifier, epoch: int) -> Fitted:
        constant_head(model, epoch)
        return Fitted({"favoured": float(epoch)})

    define(Constant)
    trial = experiment("made_up", selector="val_accuracy", epg_samples=0)
    result = trial.run()
    labels = trial.dataset.split("test").label
    # Landbirds (class 0) are the larger class, so the first constant is the better candidate.
    assert result.record.selected == {"phase": "constants", "epoch": 0}
    assert result.record.metrics["test"].accuracy.value == pytest.approx((labels == 0).mean())
    logged = [(p["phase"], p["epoch"], p.get("favoured")) for p in result.record.phases]
    assert logged == [("erm", 0, None), ("constants", 0, 0.0), ("constants", 1, 1.0)]


def test_a_method_that_trains_on_val_is_judged_by_its_held_out_predictions(
    define: Define, experiment: Callable[..., Any]
) -> None:
    class OnVal(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("erm", epochs=1)
            val = run.embeddings("val")
            np.testing.assert_array_equal(run.val_groups, trial.dataset.split("val").group)

            def fit(model: Classifier, epoch: int) -> Fitted:
                constant_head(model, 0)
                worse = np.zeros_like(val.label) if epoch else np.ones_like(val.label)
                return Fitted(held_out=Predictions(val.label, worse, np.full(len(worse), 0.5, np.float32)))

            yield Phase("fit", epochs=2, fit=fit)

    define(OnVal, train="val_groups")
    trial = experiment("made_up", selector="val_accuracy", epg_samples=0)
    result = trial.run()
    split = trial.dataset.split("val")
    expected = headline(split.label, np.zeros_like(split.label), split.group)
    # Both epochs have the same head; only what was held out tells them apart.
    assert result.record.selected == {"phase": "fit", "epoch": 1}
    assert result.record.metrics["val"].accuracy.value == pytest.approx(expected["accuracy"])
    assert result.record.selectors["last"].val["accuracy"] == pytest.approx(expected["accuracy"])
    assert result.record.method.regime["train"] == "val_groups"


def test_training_on_val_without_held_out_predictions_is_an_error(
    define: Define, experiment: Callable[..., Any]
) -> None:
    class Careless(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("fit", epochs=1, fit=lambda model, epoch: Fitted())

    define(Careless, train="val_groups")
    with pytest.raises(ConfigError, match="phase 'fit' must return held-out predictions"):
        experiment("made_up").trainer().fit()


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda logits, label: None, "NoneType"),
        (lambda logits, label: F.cross_entropy(logits, label, reduction="none"), r"shape \(\d+,\)"),
        (lambda logits, label: {"cross_entropy": F.cross_entropy(logits, label)}, "dict"),
        (lambda logits, label: F.cross_entropy(logits, label).detach(), "a number without a gradient"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_one_line(
    result: Callable[..., Any], said: str, define: Define, experiment: Callable[..., Any]
) -> None:
    class Odd(Method):
        """Returns something else than a loss."""

        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            return result(model(batch).logits, batch.label)

    define(Odd)
    with pytest.raises(ConfigError, match=f"'made_up': its loss returned {said}; return one number"):
        experiment("made_up").trainer().fit()


@pytest.mark.parametrize("value", [0.5, torch.ones(3)])
def test_a_logged_value_that_is_no_number_is_named(value: Any, define: Define, experiment: Callable[..., Any]) -> None:
    class Logs(Method):
        """Logs something else than one number."""

        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            return {"loss": F.cross_entropy(model(batch).logits, batch.label), "weight": value}

    define(Logs)
    with pytest.raises(ConfigError, match="its loss logs 'weight' as no tensor of one number"):
        experiment("made_up").trainer().fit()


def test_the_regime_decides_about_the_validation_split(define: Define, experiment: Callable[..., Any]) -> None:
    class Curious(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase(epochs=1)
            for ask in (lambda: run.embeddings("val"), lambda: run.val_groups):
                with pytest.raises(RegimeError, match="does not train on the validation split"):
                    ask()
            with pytest.raises(RegimeError, match="may embed train or val in its phases, not 'test'"):
                run.embeddings("test")

    define(Curious, train="groups")
    experiment("made_up").trainer().fit()


def test_embeddings_are_what_the_linear_layer_is_given(define: Define, experiment: Callable[..., Any]) -> None:
    class Embedding(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase(epochs=1)
            seen.append(run.embeddings("train"))

    seen: list[Any] = []
    define(Embedding)
    trainer = experiment("made_up").trainer()
    trainer.fit()
    trainer.data.maps("train", (3,))  # computes them, unless another test on the same data has
    maps = np.load(next(Path(trainer.data._features.folder).glob("train.S3.npy")))
    pooled = torch.from_numpy(maps).mean(dim=(2, 3))
    norm = trainer.model.pyramid.network.head.norm  # ConvNeXt norms after pooling
    with torch.no_grad():
        expected = norm(pooled[:, :, None, None])[:, :, 0, 0]
    np.testing.assert_allclose(seen[0].embedding, expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen[0].label, trainer.data.dataset.split("train").label)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_linear_map_written_into_the_head_is_computed_by_it(
    standardize: bool, experiment: Callable[..., Any]
) -> None:
    trainer = experiment(settings={"standardize": standardize}).trainer()
    trainer.fit()
    weight, bias = torch.randn(2, trainer.model.pyramid.embed_dim), torch.randn(2)
    trainer.model.head.set_linear(weight, bias)
    batch = next(trainer.data.evaluation("val").epoch(np.arange(16), seed=0))
    with torch.no_grad():
        output = trainer.model.eval()(batch)
    torch.testing.assert_close(output.logits, output.embedding @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_an_order_of_the_methods_own_makes_the_batches(define: Define, experiment: Callable[..., Any]) -> None:
    class Ordered(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase(epochs=2, order=order, settings={"batch_size": 3})

        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            batches.append((progress, batch.index.tolist()))
            return super().loss(model, batch, progress)

    def order(generator: np.random.Generator) -> np.ndarray:
        drawn.append(generator.choice(100, size=12))
        return drawn[-1]

    drawn: list[np.ndarray] = []
    batches: list[tuple[Progress, list[int]]] = []
    define(Ordered)
    experiment("made_up").trainer().fit()
    assert [batch for _, batch in batches] == [row.tolist() for epoch in drawn for row in epoch.reshape(4, 3)]
    assert [progress.step for progress, _ in batches] == list(range(8))
    assert {progress.steps for progress, _ in batches} == {8}
    assert not np.array_equal(*drawn)


def test_images_and_a_frozen_backbone_for_one_phase(define: Define, experiment: Callable[..., Any]) -> None:
    class Mixed(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("features", epochs=1)
            yield Phase("images", epochs=1, images=True)

        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            seen.append((batch.has_image, next(model.pyramid.parameters()).requires_grad))
            return super().loss(model, batch, progress)

    class HeadLast(Mixed):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("all", epochs=1)
            yield Phase("head", epochs=1, start="new_head", settings={"train": "head"})

    seen: list[tuple[bool, bool]] = []
    define(Mixed)
    experiment("made_up").trainer().fit()
    assert seen == [(False, False)] * 6 + [(True, False)] * 6
    seen.clear()
    define(HeadLast)
    trial = experiment("made_up", training={"train": "all"})
    trainer = trial.trainer()
    trainer.fit()
    assert seen == [(True, True)] * 6 + [(True, False)] * 6
    one, two = (checkpoint.load(trial.folder / f"phase-{n}.pt")["model"] for n in (0, 1))
    backbone = [name for name in one if name.startswith("pyramid.") and "head" not in name]
    assert backbone
    assert all(torch.equal(one[name], two[name]) for name in backbone)
    assert not torch.equal(one["head.classifier.weight"], two["head.classifier.weight"])
    assert all(p.requires_grad for p in trainer.model.parameters())  # as the run was asked to train


def test_a_kept_optimiser_goes_on_as_if_there_had_been_no_phase(
    define: Define, experiment: Callable[..., Any], tmp_path: Path
) -> None:
    class One(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("train", epochs=2, order=order)

    class Two(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("train", epochs=1, order=order)
            yield Phase("more", epochs=1, order=order, keep_optimizer=keep)

    def order(generator: np.random.Generator) -> np.ndarray:
        return np.arange(64)

    def trained(method: type[Method], name: str) -> torch.Tensor:
        define(method)
        training = {"optimizer": "sgd", "schedule": "constant", "lr": 0.05}
        trainer = experiment("made_up", training=training, runs_root=tmp_path / name).trainer()
        trainer.fit()
        state = checkpoint.load(trainer.last_file)["model"]
        return state["head.classifier.weight"]

    whole = trained(One, "whole")
    keep = True
    assert torch.equal(trained(Two, "kept"), whole)
    keep = False
    assert not torch.equal(trained(Two, "anew"), whole)


def test_a_kept_optimiser_keeps_the_decayed_rate(define: Define, experiment: Callable[..., Any]) -> None:
    class Two(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("train", epochs=4)
            yield Phase("more", epochs=1, keep_optimizer=True)

    define(Two)
    trainer = experiment("made_up", training={"schedule": "step", "lr": 0.08}).trainer()
    trainer.fit()
    rates = [group["lr"] for group in checkpoint.load(trainer.last_file)["optimizer"]["param_groups"]]
    assert rates == pytest.approx([0.01] * len(rates))  # halved after each of the first three quarters


def test_the_step_schedule_halves_after_each_quarter(experiment: Callable[..., Any]) -> None:
    config = experiment(training={"schedule": "step"}).config
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 1.0, "base_lr": 1.0}])
    rates = []
    for step in range(100):
        set_learning_rate(optimizer, config, step, 100, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0] * 25 + [0.5] * 25 + [0.25] * 25 + [0.125] * 25


def test_the_selected_model_maps_the_photographs_and_the_last_one_goes_on(
    define: Define, experiment: Callable[..., Any]
) -> None:
    class Mapping(CrossEntropy):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("constants", epochs=2, fit=fit)
            seen.append(run.map_training("logits", lambda model, batch: model(batch).logits))
            seen.append(run.predict("train"))

    def fit(model: Classifier, epoch: int) -> Fitted:
        constant_head(model, epoch)
        return Fitted()

    seen: list[Any] = []
    define(Mapping)
    trial = experiment("made_up", selector="val_accuracy")
    trial.trainer().fit()
    logits, last = seen
    assert torch.equal(logits, torch.tensor([[1.0, 0.0]]).expand(len(trial.dataset.split("train")), 2))
    assert set(last.prediction) == {1}


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_what_a_fit_logs_in_numpy_numbers_is_resumed_and_recorded(
    kind: type[Any], define: Define, experiment: Callable[..., Any]
) -> None:
    class Logs(CrossEntropy):
        """Logs a number of numpy's."""

        def phases(self, run: Run) -> Iterator[Phase]:
            def fit(model: Classifier, epoch: int) -> Fitted:
                constant_head(model, epoch)
                return Fitted(log={"penalty": kind(0.5)})

            yield Phase(fit=fit, epochs=2)

    define(Logs)
    trial = experiment("made_up")
    result = trial.run()
    assert [entry["penalty"] for entry in checkpoint.load(trial.folder / "last.pt")["clock"]["log"]] == [0.5, 0.5]
    assert '"penalty":0.5' in result.record.model_dump_json()


def test_an_epoch_that_came_out_otherwise_after_a_kill_is_not_taken_for_the_chosen_one(
    define: Define, experiment: Callable[..., Any]
) -> None:
    define(CrossEntropy)
    trainer = experiment("made_up", training={"epochs": 2}).trainer()
    trainer.fit()
    state = trainer.chosen()
    checkpoint.save(trainer.selected_file, {**state, "epoch": 1 - state["epoch"]})
    again = experiment("made_up", training={"epochs": 2}).trainer()
    with pytest.raises(ConfigError, match=r"the selector chooses epoch \d, but .*selected\.pt is of epoch \d"):
        again.fit()


def test_a_damaged_artifact_is_named(tmp_path: Path) -> None:
    path = tmp_path / "val.npz"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"val\.npz is damaged"), _names_damage(path):
        Predictions.load(path)
    Predictions(np.zeros(900, np.int64), np.zeros(900, np.int64), np.zeros(900, np.float32)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ConfigError, match="remove it, and the run computes it again"), _names_damage(path):
        Predictions.load(path)
