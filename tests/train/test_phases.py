"""Phases, regimes and selection, with methods made up for the purpose."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aimbench.errors import ConfigError, RegimeError
from aimbench.train import checkpoint
from aimbench.train.api import Batch, Classifier, Loss, Method, Phase, Progress, Run
from aimbench.train.config import TrainConfig, for_phase
from aimbench.train.epoch_batches import epoch_batches

Define = Callable[..., type[Method]]


class Recording(Method):
    """ERM that notes what it is handed."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: list[tuple[Progress, list[int]]] = []
        self.heads: list[torch.Tensor] = []

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        if progress.step == 0:
            self.heads.append(model.head.classifier.weight.detach().clone())  # type: ignore[union-attr,operator]
        self.seen.append((progress, batch.index.tolist()))
        return F.cross_entropy(model(batch).logits, batch.label)

    def positions(self, epoch: int) -> list[int]:
        return [i for progress, batch in self.seen if progress.epoch == epoch for i in batch]


@pytest.mark.parametrize("train", ["head", "all"])
@pytest.mark.parametrize(("field", "regime"), [("group", "groups"), ("mask", "masks")])
def test_a_method_gets_what_its_regime_declares_and_nothing_else(
    define: Define, experiment: Callable[..., Any], field: str, regime: str, train: str
) -> None:
    class Reader(Recording):
        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            read.append(getattr(batch, field))
            return super().loss(model, batch, progress)

    read: list[torch.Tensor] = []
    define(Reader, train="class")
    with pytest.raises(RegimeError, match=rf"batch\.{field} .*does not include {regime}"):
        experiment("made_up", training={"epochs": 1, "train": train}).trainer().fit()
    define(Reader, train=regime)
    experiment("made_up", training={"epochs": 1, "train": train}).trainer().fit()
    assert len(read) == 6


def test_the_groups_that_a_method_reads_are_those_of_the_split(define: Define, experiment: Callable[..., Any]) -> None:
    class Reader(Recording):
        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            pairs.extend(zip(batch.index.tolist(), batch.group.tolist(), batch.label.tolist(), strict=True))
            return super().loss(model, batch, progress)

    pairs: list[tuple[int, int, int]] = []
    define(Reader, train="groups")
    trial = experiment("made_up", training={"epochs": 1})
    trial.trainer().fit()
    index = trial.dataset.split("train")
    assert sorted(pairs) == [(i, int(index.group[i]), int(index.label[i])) for i in range(len(index))]


def test_run_opens_groups_and_splits_by_the_regime_alone(define: Define, experiment: Callable[..., Any]) -> None:
    class Curious(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            with pytest.raises(RegimeError, match="does not train on groups"):
                _ = run.groups
            with pytest.raises(RegimeError, match="may predict train or val in its phases, not 'test'"):
                run.predict("test")
            yield Phase(epochs=1)
            assert len(run.predict("val").label) == 48
            with pytest.raises(RegimeError, match="not 'test'"):
                run.predict("test")

    define(Curious)
    trial = experiment("made_up")
    trial.trainer().fit()
    assert len(list((trial.folder / "artifacts").iterdir())) == 1


def test_weights_subset_start_and_kept_predictions(define: Define, experiment: Callable[..., Any]) -> None:
    subset = np.array([3, 3, 5, 8, 13, 21])
    artifacts: list[np.ndarray] = []

    class TwoPhases(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("one", epochs=2, subset=subset)
            artifacts.append(run.predict("train").prediction)
            weights = np.zeros(len(run.labels))
            weights[[2, 4]] = 1
            yield Phase("two", epochs=1, start="pretrained", weights=weights, settings={"batch_size": 16})
            yield Phase("three", epochs=1, subset=subset)

    define(TwoPhases)
    trial = experiment("made_up")
    trainer = trial.trainer()
    trainer.fit()
    method = trial.method

    one = [(p, b) for p, b in method.seen if p.epochs == 2]
    assert [sorted(batch) for _, batch in one] == [sorted(subset)] * 2  # repeated positions are repeated samples
    size = len(trial.dataset.split("train"))
    two = [b for p, b in method.seen if p.epochs == 1 and p.steps > 1]
    assert sum(map(len, two)) == size  # as many draws as the split has samples ...
    assert {i for batch in two for i in batch} == {2, 4}  # ... of those with any weight

    fresh, restarted, current = method.heads
    assert torch.equal(fresh, restarted)  # 'pretrained' builds the head anew, from the same seed
    assert not torch.equal(current, fresh)  # 'current' goes on
    (kept,) = (trial.folder / "artifacts").iterdir()
    assert kept.name == "one-train.npz"
    with np.load(kept) as arrays:
        np.testing.assert_array_equal(arrays["prediction"], artifacts[0])
    assert [(s.phase, s.epoch) for s in trainer.scores()] == [("one", 0), ("one", 1), ("two", 0), ("three", 0)]
    assert checkpoint.load(trainer.selected_file)["phase"] == "three"


def test_phases_of_one_name_are_refused(define: Define, experiment: Callable[..., Any]) -> None:
    class Twins(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("same", epochs=1)
            yield Phase("same", epochs=1)

    define(Twins)
    with pytest.raises(ConfigError, match="two phases called 'same'; rename one"):
        experiment("made_up").trainer().fit()


SAMPLES = 192
"""Of the training split."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../up"}, "a name has letters, digits, blanks and - _ . alone"),
        ({"start": "pretraind"}, "there is no start='pretraind': did you mean 'pretrained'"),
        ({"epochs": 0}, "epochs=0 is no whole number above 0; without it the phase takes the run's --epochs"),
        ({"epochs": 1.5}, "epochs=1.5 is no whole number"),
        ({"candidates_from": -1}, "candidates_from=-1 is no epoch"),
        ({"subset": np.array([], dtype=int)}, r"subset must hold at least one position, .*it is int64 \(0,\)"),
        ({"subset": []}, "subset must hold at least one position"),
        ({"subset": np.ones(SAMPLES, dtype=bool)}, r"subset is true or false a sample; .*np.flatnonzero\(subset\)"),
        ({"subset": np.array([0, SAMPLES])}, f"subset has position {SAMPLES} of {SAMPLES} training samples"),
        ({"subset": np.array([-1, 0])}, "subset has position -1"),
        ({"order": lambda generator: np.array([SAMPLES])}, f"order has position {SAMPLES}"),
        ({"order": lambda generator: np.array([0]), "subset": np.array([0])}, "order stands instead of"),
        ({"fit": lambda model, epoch: None, "subset": np.array([0])}, "fit sets the head itself"),
        ({"weights": np.ones(3)}, rf"weights must be \({SAMPLES},\) numbers, .*they are float64 \(3,\)"),
        ({"weights": np.full(SAMPLES, np.nan)}, "that of training sample 0 is nan"),
        ({"weights": np.linspace(1, -1, SAMPLES)}, "weights must be 0 or more; that of training sample 96 is -"),
        ({"weights": np.zeros(SAMPLES)}, "weights are 0 for every sample$"),
        ({"weights": np.eye(SAMPLES)[0], "subset": np.array([1])}, "weights are 0 for every sample of subset"),
    ],
)
def test_a_phase_that_does_not_mean_what_it_says_is_refused(
    fields: dict[str, Any], message: str, define: Define, experiment: Callable[..., Any]
) -> None:
    class Odd(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            assert len(run.labels) == SAMPLES
            yield Phase(**{"name": "odd", **fields})

    define(Odd)
    with pytest.raises(ConfigError, match=f"phase '.*{message}"):
        experiment("made_up", training={"epochs": 1}).trainer().fit()


@pytest.mark.parametrize(
    ("yielded", "message"),
    [([], "method 'made_up' has no phase"), (["erm"], "method 'made_up': its phases yielded str; yield Phase")],
)
def test_what_is_no_phase_is_refused(
    yielded: list[Any], message: str, define: Define, experiment: Callable[..., Any]
) -> None:
    class Odd(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield from yielded

    define(Odd)
    with pytest.raises(ConfigError, match=message):
        experiment("made_up").trainer().fit()


def test_a_method_without_a_loss_is_one_line(define: Define, experiment: Callable[..., Any]) -> None:
    class Bare(Method):
        pass

    define(Bare)
    with pytest.raises(ConfigError, match=r"method 'made_up' has no loss: define loss\(self, model, batch, progress\)"):
        experiment("made_up").trainer().fit()


@pytest.mark.parametrize(
    ("settings", "training", "message"),
    [
        ({"learning_rate": 1e-4}, {}, "phase 'one' of method 'made_up' cannot set 'learning_rate'"),
        ({"precision": "bf16-mixed"}, {}, "cannot set 'precision'"),
        ({"epochs": 3}, {}, "cannot set 'epochs'"),
        ({"image_size": 96}, {}, "cannot set 'image_size'"),
        ({"lr": "abc"}, {}, "training setting 'lr': .*got 'abc'"),
        ({"train": "all"}, {}, "sets train='all': a phase can freeze the backbone"),
        ({"batch_size": 16}, {"loader": "stream"}, "sets its batch size, which a stream cannot"),
    ],
)
def test_what_a_phase_cannot_set_is_refused(
    settings: dict[str, Any], training: dict[str, Any], message: str, define: Define, experiment: Callable[..., Any]
) -> None:
    class Odd(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase("one", epochs=1, settings=settings)

    define(Odd)
    with pytest.raises(ConfigError, match=message):
        experiment("made_up", training=training).trainer().fit()


def test_what_a_phase_sets_replaces_the_runs_and_the_rest_stays() -> None:
    run = TrainConfig(train="all", epochs=7, image_size=96, precision="bf16-mixed")
    changes = {"lr": 0.5, "backbone_lr": 0.25, "optimizer": "sgd", "weight_decay": 0.125, "schedule": "step"}
    changes |= {"train": "head", "warmup_epochs": 2.0, "grad_clip": 3.0, "batch_size": 5, "augment": True}
    phase = for_phase(run, "made_up", "one", changes)
    assert phase.model_dump() == {**run.model_dump(), **changes}
    assert for_phase(phase, "made_up", "two", {}) == phase


@pytest.mark.parametrize("method", ["afr", "cnc", "crt", "jtt", "lisa", "rwg", "rwy", "subg", "suby"])
def test_what_chooses_samples_refuses_a_stream_before_it_trains(method: str, experiment: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=f"method '{method}' weights, orders or leaves out samples.*--loader indexed"):
        experiment(method, training={"loader": "stream"})


@pytest.mark.parametrize("training", [{}, {"grad_clip": 1.0}])
def test_a_loss_that_is_not_finite_is_an_error(
    training: dict[str, Any], define: Define, experiment: Callable[..., Any]
) -> None:
    class Diverging(Recording):
        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            return super().loss(model, batch, progress) / (0.0 if progress.step == 3 else 1.0)  # type: ignore[operator]

    define(Diverging)
    with pytest.raises(ConfigError, match="loss of method 'made_up' became inf in epoch 1; lower --lr"):
        experiment("made_up", training=training).trainer().fit()


@pytest.mark.parametrize("selector", ["last", "val_accuracy", "val_worst_group_accuracy"])
def test_the_checkpoint_is_that_of_the_selectors_epoch(
    define: Define, experiment: Callable[..., Any], selector: str
) -> None:
    define(Recording)
    trial = experiment("made_up", selector=selector, training={"epochs": 6, "lr": 1.0})
    trainer = trial.trainer()
    result = trial.run()
    scores = trainer.scores()
    if selector == "last":
        expected = 5
    else:
        values = [s.val[selector.removeprefix("val_")] for s in scores]
        expected = values.index(max(values))
    chosen = checkpoint.load(trainer.selected_file)
    assert (chosen["phase"], chosen["epoch"]) == ("train", expected)
    assert result.record.selected == {"phase": "train", "epoch": expected}
    # The reported numbers are those of that epoch, computed from its file, and not those of the model at the end.
    if selector != "last":
        assert scores[expected].test["accuracy"] != scores[-1].test["accuracy"]
    assert result.record.metrics["test"].accuracy.value == pytest.approx(scores[expected].test["accuracy"])
    assert result.record.selectors[selector].epoch == expected


def test_epochs_before_candidates_from_cannot_be_selected(define: Define, experiment: Callable[..., Any]) -> None:
    class Late(Recording):
        def phases(self, run: Run) -> Iterator[Phase]:
            yield Phase(candidates_from=first)

        def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
            return super().loss(model, batch, progress) * (0.0 if progress.epoch else 1.0)  # type: ignore[operator]

    first = 2
    define(Late)
    # Nothing is learnt after epoch 0, so all epochs tie and an unrestricted selector would take epoch 0.
    training = {"epochs": 4, "weight_decay": 0.0, "optimizer": "sgd"}
    trial = experiment("made_up", selector="val_accuracy", training=training)
    assert trial.run().record.selected["epoch"] >= 2
    first = 99  # the last epoch is always a candidate
    trial = experiment("made_up", seed=1, selector="val_accuracy", training=training)
    assert trial.run().record.selected["epoch"] == 3


def test_a_clipped_gradient_has_the_stated_norm(define: Define, experiment: Callable[..., Any]) -> None:
    define(Recording)
    training = {"optimizer": "sgd", "lr": 1.0, "schedule": "constant", "weight_decay": 0.0}
    # One step, in which momentum has no say yet.
    training |= {"grad_clip": 1e-3, "epochs": 1, "batch_size": 4096, "train": "head"}
    trainer = experiment("made_up", training=training).trainer()
    before = {name: value.detach().clone() for name, value in trainer.model.head.named_parameters()}
    trainer.fit()
    last = checkpoint.load(trainer.last_file)["model"]
    moved = sum(float((last[f"head.{name}"] - value).square().sum()) for name, value in before.items())
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_a_last_batch_of_one_sample_is_left_out(experiment: Callable[..., Any]) -> None:
    trial = experiment("erm", training={"epochs": 1, "batch_size": 32})
    size = len(trial.dataset.split("train"))
    trainer = experiment("erm", training={"epochs": 1, "batch_size": size - 1}).trainer()
    batches = epoch_batches(trainer.data, Phase(), trainer.config, 0)
    assert [len(batch) for batch in batches.batches] == [size - 1]
    assert batches.steps == 1
