"""The training loop: phases and epochs. Kill it anywhere; it goes on where the last epoch ended."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from aimbench.data.batch import Batch
from aimbench.data.sharing import is_first, share, wait
from aimbench.errors import ConfigError
from aimbench.metrics.selectors import EpochScore, select
from aimbench.models.classifier import Classifier
from aimbench.train import checkpoint
from aimbench.train.config import TrainConfig, for_phase
from aimbench.train.epoch_batches import epoch_batches
from aimbench.train.epoch_report import EpochReport
from aimbench.train.epochs import EpochStore
from aimbench.train.inference import Inference
from aimbench.train.method import Method
from aimbench.train.optim import make_optimizer, set_trainable
from aimbench.train.phase import Fitted, Phase
from aimbench.train.phase_check import check_phase
from aimbench.train.predictions import Embeddings, Predictions
from aimbench.train.progress import Reporter
from aimbench.train.run import Run
from aimbench.train.run_model import RunModel
from aimbench.train.sources import RunData
from aimbench.train.steps import Steps


@dataclass
class Clock:
    """Cost of a run, added up over resumed sessions: ``seconds`` of training steps, ``wall`` of everything."""

    seconds: float = 0.0
    wall: float = 0.0
    images: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains one method on one dataset, phase by phase.

    Args:
        fabric: devices and precision.
        method: what to minimise.
        build: makes the untrained model anew (pretrained backbone, fresh head).
        data: the run's sources.
        config: shared settings.
        seed: of everything random.
        selector: chooses the epoch whose checkpoint is kept.
        folder: of checkpoints and per-epoch predictions.
        reporter: shows progress.
        compile: run the backbone through torch's compiler.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        build: Callable[[], Classifier],
        data: RunData,
        config: TrainConfig,
        *,
        seed: int,
        selector: str,
        folder: Path,
        reporter: Reporter,
        compile: bool = False,
    ) -> None:
        self.fabric = fabric
        self.method = method
        self.data = data
        self.config = config
        self.seed = seed
        self.selector = selector
        self.folder = folder
        self.reporter = reporter
        self.clock = Clock()
        self.epochs = EpochStore(folder / "epochs")
        self._inference = Inference(fabric, data, config, reporter)
        self._run_model = RunModel(build, config, _seed(seed, 0), fabric.device, folder, compile=compile)
        self.earlier_seconds = 0.0  # wall time of the sessions before this one
        self._started = time.perf_counter()
        self._resume: dict[str, Any] | None = None
        self._report = EpochReport(fabric, reporter)
        self._optimizer_state: dict[str, Any] | None = None  # of the last phase, for one that goes on with it

    @property
    def model(self) -> Classifier:
        """As it stands."""
        return self._run_model.model

    @property
    def last_file(self) -> Path:
        """Checkpoint of the last finished epoch."""
        return self.folder / "last.pt"

    @property
    def selected_file(self) -> Path:
        """Checkpoint of the epoch that the selector has chosen so far."""
        return self.folder / "selected.pt"

    def chosen(self) -> dict[str, Any]:
        """The checkpoint of the epoch that the selector has chosen: ``model``, ``phase`` and ``epoch``."""
        return self._load(self.selected_file)

    def fit(self) -> None:
        """Runs all phases, from the last checkpoint in the folder if there is one."""
        self._started = time.perf_counter()
        if self.last_file.exists():
            self._resume = self._load(self.last_file)
            self.clock = Clock(**self._resume["clock"])
            self.earlier_seconds = self.clock.wall
            self.epochs.check_whole([(entry["phase"], entry["epoch"]) for entry in self.clock.log])
        run = Run(
            self.data.dataset,
            self.config,
            self.method.regime,
            self.seed,
            self.folder / "artifacts",
            self,
        )
        names: set[str] = set()
        size = len(self.data.dataset.split("train"))
        for number, phase in enumerate(self.method.phases(run)):
            check_phase(phase, self.method.name, size)
            if phase.name in names:
                raise ConfigError(f"method '{self.method.name}' has two phases called '{phase.name}'; rename one")
            names.add(phase.name)
            self._run_phase(number, phase)
            run.finished(phase.name)
        if not names:
            raise ConfigError(
                f"method '{self.method.name}' has no phase: its phases must yield at least one Phase(...)"
            )
        chosen = self.chosen()
        self._check_is_selected(chosen)
        self.load_state(chosen["model"])
        set_trainable(self.model, self.config.train)

    def predict(self, split: str) -> Predictions:
        """Predictions of the model as it stands."""
        return self._inference.predict(self.model, split)

    def final_predictions(self) -> dict[str, Predictions]:
        """Predictions of the selected model on every split but the training one.

        For a method that trains on the validation split, those of the validation split are the held-out
        ones that it was selected by.
        """
        splits = [name for name in self.data.dataset.splits if name != "train"]
        predictions = {split: self.predict(split) for split in splits}
        if self.method.regime.train == "val_groups":
            chosen = self.chosen()
            predictions["val"] = self.epochs.predictions(chosen["phase"], chosen["epoch"])["val"]
        return predictions

    def embed(self, split: str) -> Embeddings:
        """Embeddings of the model as it stands."""
        return self._inference.embed(self.model, split)

    def maps(self, split: str) -> Iterator[Batch]:
        """Batches of images, or of a frozen backbone's maps, in the split's order, on the device, not augmented."""
        return self._inference.maps(self.model, split)

    @contextmanager
    def selected(self) -> Iterator[Classifier]:
        """The model of the epoch that the selector chose in the last phase; afterwards the last one again."""
        last = {name: value.clone() for name, value in self._run_model.state().items()}
        self.load_state(self.chosen()["model"])
        self.model.eval()
        try:
            yield self.model
        finally:
            self.load_state(last)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads the ``model`` of a checkpoint."""
        self._run_model.load(state)

    def _run_phase(self, number: int, phase: Phase) -> None:
        config = for_phase(self.config, self.method.name, phase.name, phase.settings or {})
        epochs = config.epochs if phase.epochs is None else phase.epochs
        if self._resume is not None and number < self._resume["phase"]:
            self.load_state(self._load(self._phase_file(number))["model"])
            return
        if number > 0:
            self._run_model.start(phase)
        set_trainable(self.model, config.train)
        torch.manual_seed(_seed(self.seed, 1, number))
        if phase.fit is None:
            self._train_phase(number, phase, config, epochs)
        else:
            self._fit_phase(number, phase, phase.fit, epochs)
        if is_first():
            self._save(self._phase_file(number), {"model": self._run_model.state()})
        wait()

    def _train_phase(self, number: int, phase: Phase, config: TrainConfig, epochs: int) -> None:
        optimizer = make_optimizer(self.model, config, self.method.learning_rates())
        model, optimizer = self.fabric.setup(self.model, optimizer)
        if phase.keep_optimizer:
            config = config.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0})
            if self._optimizer_state is not None:
                optimizer.load_state_dict(self._optimizer_state)
                for group in optimizer.param_groups:
                    group["base_lr"] = group["lr"]
        steps = Steps(self.fabric, self.method, self.model, model, optimizer, config, self.reporter)
        for epoch in range(self._restore(optimizer), epochs):
            self._train_epoch(steps, config, phase, number, epoch, epochs)
            self._end_epoch(optimizer, phase, number, epoch, epochs)
        self._optimizer_state = optimizer.state_dict()

    def _fit_phase(self, number: int, phase: Phase, fit: Callable[[Classifier, int], Fitted], epochs: int) -> None:
        if share().count > 1:
            raise ConfigError(f"phase '{phase.name}' sets the head itself, in one process; run it with --devices 1")
        for epoch in range(self._restore(None), epochs):
            self.model.eval()
            fitted = fit(self.model, epoch)
            if self.method.regime.train == "val_groups" and fitted.held_out is None:
                raise ConfigError(
                    f"method '{self.method.name}' trains on the validation split, so phase '{phase.name}' must"
                    " return held-out predictions of it: Fitted(held_out=...)"
                )
            self.clock.log.append(
                {"phase": phase.name, "epoch": epoch, **{name: float(value) for name, value in fitted.log.items()}}
            )
            self._end_epoch(None, phase, number, epoch, epochs, fitted.held_out)
        self._optimizer_state = None

    def _restore(self, optimizer: Any | None) -> int:
        """Goes on from the checkpoint of a killed session if there is one; the first epoch to train."""
        state, self._resume = self._resume, None
        if state is None:
            return 0
        self.load_state(state["model"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.method.state = state["method"]
        checkpoint.set_random_state(state["random"])
        return int(state["epoch"]) + 1

    def _train_epoch(
        self, steps: Steps, config: TrainConfig, phase: Phase, number: int, epoch: int, epochs: int
    ) -> None:
        plan = epoch_batches(self.data, phase, config, _seed(self.seed, 2, number, epoch))
        taken = steps.epoch(plan, phase.name, epoch, epochs)
        self.clock.seconds += taken.seconds
        self.clock.images += taken.images
        self.clock.log.append({"phase": phase.name, "epoch": epoch, **taken.means})

    def _end_epoch(
        self,
        optimizer: Optimizer | None,
        phase: Phase,
        number: int,
        epoch: int,
        epochs: int,
        held_out: Predictions | None = None,
    ) -> None:
        random = checkpoint.random_state()  # evaluation must not move the generators of training
        # Further test conditions select nothing: only the selected model meets them.
        predictions = {split: self.predict(split) for split in ("val", "test")}
        checkpoint.set_random_state(random)
        if held_out is not None:
            predictions["val"] = held_out
        is_candidate = epoch >= min(phase.candidates_from, epochs - 1)
        health = predictions["val"].mask_health
        self.clock.log[-1].update({f"val {name}": value for name, value in health.items()})
        if is_first():
            self.epochs.write(phase.name, number, epoch, predictions, is_candidate=is_candidate)
        wait()
        scores = self.scores()
        model = self._run_model.state()
        self.clock.wall = self.earlier_seconds + time.perf_counter() - self._started
        best = self._best(scores)
        if is_first():
            if best is None or best.epoch == epoch:
                self._save(self.selected_file, {"model": model, "phase": phase.name, "epoch": epoch})
            self._save(
                self.last_file,
                {
                    "phase": number,
                    "epoch": epoch,
                    "model": model,
                    "optimizer": {} if optimizer is None else optimizer.state_dict(),
                    "scaler": self.fabric.strategy.precision.state_dict(),  # of half precision, else empty
                    "method": self.method.state,
                    "random": random,
                    "clock": vars(self.clock),
                },
            )
        wait()
        self._report.tell(
            f"{phase.name} {epoch + 1}/{epochs}", self.clock.log[-1], scores[-1], health, len(self.clock.log)
        )

    def scores(self) -> list[EpochScore]:
        """Headline metrics of every epoch so far, in order."""
        return self.epochs.scores(self.data.dataset)

    def _best(self, scores: Sequence[EpochScore]) -> EpochScore | None:
        """What the selector chooses of the phase that was trained last; None before its first candidate."""
        candidates = [score for score in scores if score.phase == scores[-1].phase and score.is_candidate]
        return candidates[select(self.selector, candidates)] if candidates else None

    def _check_is_selected(self, chosen: Mapping[str, Any]) -> None:
        """Checks that the checkpoint kept is that of the epoch which the selector chooses of all of the last phase.

        Else a session was killed when it had just chosen an epoch which, trained once more, came out otherwise.
        """
        best = self._best(self.scores())
        assert best is not None  # a phase's last epoch is always a candidate
        if (chosen["phase"], chosen["epoch"]) != (best.phase, best.epoch):
            raise ConfigError(
                f"run {self.folder.name}: the selector chooses epoch {best.epoch + 1}, but {self.selected_file} is of"
                f" epoch {chosen['epoch'] + 1}, which was trained again after a kill and came out otherwise on this"
                " machine; start over with --fresh"
            )

    def _save(self, path: Path, state: Mapping[str, Any]) -> None:
        checkpoint.save(path, {"run": self.folder.name, **state})

    def _load(self, path: Path) -> dict[str, Any]:
        return checkpoint.load(path, self.folder.name)

    def _phase_file(self, number: int) -> Path:
        return self.folder / f"phase-{number}.pt"


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
