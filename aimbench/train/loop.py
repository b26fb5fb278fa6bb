"""The training loop: phases, epochs, steps. Kill it anywhere; it goes on where the last epoch ended."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from aimbench.data.batch import Batch
from aimbench.data.loader import epoch_order
from aimbench.data.stream import StreamSource
from aimbench.errors import ConfigError
from aimbench.metrics.groups import headline
from aimbench.metrics.selectors import EpochScore, select
from aimbench.models.classifier import Classifier
from aimbench.train import checkpoint
from aimbench.train.config import TrainConfig
from aimbench.train.epochs import EpochStore
from aimbench.train.method import Method, Phase, Progress
from aimbench.train.optim import make_optimizer, set_learning_rate, set_train_mode, set_trainable
from aimbench.train.predictions import Predictions, predict_split
from aimbench.train.progress import Reporter
from aimbench.train.run import Run
from aimbench.train.sources import RunData


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
        self._build = build
        self.model = self._fresh()
        self.earlier_seconds = 0.0  # wall time of the sessions before this one
        self._started = time.perf_counter()
        self._resume: dict[str, Any] | None = None

    @property
    def last_file(self) -> Path:
        """Checkpoint of the last finished epoch."""
        return self.folder / "last.pt"

    @property
    def selected_file(self) -> Path:
        """Checkpoint of the epoch that the selector has chosen so far."""
        return self.folder / "selected.pt"

    def fit(self) -> None:
        """Runs all phases, from the last checkpoint in the folder if there is one."""
        self._started = time.perf_counter()
        if self.last_file.exists():
            self._resume = checkpoint.load(self.last_file)
            self.clock = Clock(**self._resume["clock"])
            self.earlier_seconds = self.clock.wall
        run = Run(
            self.data.dataset,
            self.config,
            self.method.regime,
            self.folder / "artifacts",
            lambda split: self.predict(split),
        )
        names: set[str] = set()
        for number, phase in enumerate(self.method.phases(run)):
            if phase.name in names:
                raise ConfigError(f"method '{self.method.name}' has two phases called '{phase.name}'; rename one")
            names.add(phase.name)
            self._run_phase(number, phase)
            run.finished(phase.name)
        self.load_state(checkpoint.load(self.selected_file)["model"])

    def predict(self, split: str) -> Predictions:
        """Predictions of the model as it stands."""
        with self.fabric.autocast():
            return predict_split(
                self.model,
                self.data.evaluation(split),
                self.fabric.device,
                channels_last=self.config.channels_last,
            )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads what ``_state`` returned."""
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        absent = [name for name in missing if not (self._is_frozen and name.startswith("pyramid."))]
        if absent or unexpected:
            raise ConfigError(
                f"checkpoint in {self.folder} does not fit the method: missing {absent[:3]}, unexpected"
                f" {list(unexpected)[:3]}; start over with --fresh"
            )

    @property
    def _is_frozen(self) -> bool:
        return self.config.train == "head"

    def _fresh(self) -> Classifier:
        torch.manual_seed(_seed(self.seed, 0))
        model = self._build().to(self.fabric.device)
        if self.config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        set_trainable(model, self.config.train)
        return model

    def _state(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {n: v for n, v in state.items() if not (self._is_frozen and n.startswith("pyramid."))}

    def _run_phase(self, number: int, phase: Phase) -> None:
        config = self.config.model_copy(update=dict(phase.settings or {}))
        epochs = config.epochs if phase.epochs is None else phase.epochs
        first = 0
        if self._resume is not None and number < self._resume["phase"]:
            self.load_state(checkpoint.load(self._phase_file(number))["model"])
            return
        if phase.start == "pretrained" and number > 0:
            self.model = self._fresh()
        torch.manual_seed(_seed(self.seed, 1, number))
        optimizer = make_optimizer(self.model, config, self.method.learning_rates())
        model, optimizer = self.fabric.setup(self.model, optimizer)
        if self._resume is not None:
            first = self._restore(optimizer)
        for epoch in range(first, epochs):
            self._train_epoch(model, optimizer, config, phase, number, epoch, epochs)
            self._end_epoch(optimizer, phase, number, epoch, epochs)
        checkpoint.save(self._phase_file(number), {"model": self._state()})

    def _restore(self, optimizer: Any) -> int:
        state, self._resume = self._resume, None
        assert state is not None
        self.load_state(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_random_state(state["random"])
        return int(state["epoch"]) + 1

    def _train_epoch(
        self,
        model: Any,
        optimizer: Any,
        config: TrainConfig,
        phase: Phase,
        number: int,
        epoch: int,
        epochs: int,
    ) -> None:
        size, steps, batches = self._batches(phase, config, _seed(self.seed, 2, number, epoch))
        started, images = time.perf_counter(), 0
        sums: dict[str, float] = {}
        set_train_mode(self.model)
        with self.reporter.task(f"{phase.name} {epoch + 1}/{epochs}", size) as task:
            for step, batch in enumerate(batches, start=epoch * steps):
                set_learning_rate(optimizer, config, step, epochs * steps, steps)
                loaded = batch.to(self.fabric.device, channels_last=config.channels_last)
                values = self._step(model, optimizer, loaded, config, Progress(epoch, epochs, step, epochs * steps))
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value * len(batch)
                images += len(batch)
                task.advance(len(batch), {name: total / images for name, total in sums.items()})
        self.clock.seconds += time.perf_counter() - started
        self.clock.images += images
        self.clock.log.append(
            {"phase": phase.name, "epoch": epoch, **{name: total / images for name, total in sums.items()}}
        )

    def _batches(self, phase: Phase, config: TrainConfig, seed: int) -> tuple[int, int, Iterator[Batch]]:
        """Samples, steps and batches of one training epoch; ``seed`` is the epoch's."""
        source = self.data.training()
        if isinstance(source, StreamSource):
            if phase.weights is not None or phase.subset is not None:
                raise ConfigError(
                    f"phase '{phase.name}' of method '{self.method.name}' weights or leaves out samples, which a"
                    " stream cannot; use --loader indexed"
                )
            size = len(source)
            drop_last = _ends_alone(size, config.batch_size)
            batches = source.epoch(seed, drop_last=drop_last)
        else:
            order = epoch_order(len(source), seed, weights=phase.weights, subset=phase.subset)
            size = len(order)
            drop_last = _ends_alone(size, config.batch_size)
            batches = source.epoch(order, seed, drop_last=drop_last)
        return size, size // config.batch_size if drop_last else -(-size // config.batch_size), batches

    def _step(
        self, model: Any, optimizer: Any, batch: Any, config: TrainConfig, progress: Progress
    ) -> dict[str, float]:
        result = self.method.loss(model, batch, progress)
        values = {"loss": result} if isinstance(result, Tensor) else dict(result)
        loss = values["loss"]
        if not torch.isfinite(loss):
            raise ConfigError(
                f"the loss of method '{self.method.name}' became {loss.item()} in epoch {progress.epoch + 1};"
                " lower --lr or --set the method's weights"
            )
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if config.grad_clip is not None:
            self.fabric.clip_gradients(model, optimizer, max_norm=config.grad_clip)
        optimizer.step()
        return {name: float(value.detach()) for name, value in values.items()}

    def _end_epoch(self, optimizer: Optimizer, phase: Phase, number: int, epoch: int, epochs: int) -> None:
        random = checkpoint.random_state()  # evaluation must not move the generators of training
        splits = [name for name in self.data.dataset.splits if name != "train"]
        predictions = {split: self.predict(split) for split in splits}
        checkpoint.set_random_state(random)
        is_candidate = epoch >= min(phase.candidates_from, epochs - 1)
        self.epochs.write(phase.name, number, epoch, predictions, is_candidate=is_candidate)
        scores = self.scores()
        model = self._state()
        self.clock.wall = self.earlier_seconds + time.perf_counter() - self._started
        candidates = [s for s in scores if s.phase == phase.name and s.is_candidate]
        if not candidates or candidates[select(self.selector, candidates)].epoch == epoch:
            checkpoint.save(self.selected_file, {"model": model, "phase": phase.name, "epoch": epoch})
        checkpoint.save(
            self.last_file,
            {
                "phase": number,
                "epoch": epoch,
                "model": model,
                "optimizer": optimizer.state_dict(),
                "random": random,
                "clock": vars(self.clock),
            },
        )
        logged = {k: v for k, v in self.clock.log[-1].items() if isinstance(v, float)}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in logged.items())
        val = scores[-1].val
        self.reporter.line(
            f"{phase.name} {epoch + 1}/{epochs}  {shown}  val accuracy {val['accuracy']:.3f}"
            f"  worst group {val['worst_group_accuracy']:.3f}"
        )

    def scores(self) -> list[EpochScore]:
        """Headline metrics of every epoch so far, in order."""
        return [
            EpochScore(
                phase=phase,
                epoch=epoch,
                val=self._headline("val", predictions["val"]),
                test=self._headline("test", predictions["test"]),
                is_candidate=is_candidate,
            )
            for phase, epoch, is_candidate, predictions in self.epochs.read()
        ]

    def _headline(self, split: str, predictions: Predictions) -> dict[str, float]:
        return headline(predictions.label, predictions.prediction, self.data.dataset.split(split).group)

    def _phase_file(self, number: int) -> Path:
        return self.folder / f"phase-{number}.pt"


def _ends_alone(size: int, batch_size: int) -> bool:
    """Whether the last batch would hold a single sample, on which batch norm cannot train."""
    return size % batch_size == 1


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
