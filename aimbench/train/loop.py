"""The training loop: phases, epochs, steps. Kill it anywhere; it goes on where the last epoch ended."""

import time
from collections.abc import Callable, Iterator, Mapping
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
from aimbench.data.ranks import is_first, share, wait
from aimbench.errors import ConfigError
from aimbench.metrics.health import summary as health_summary
from aimbench.metrics.health import warnings as health_warnings
from aimbench.metrics.selectors import EpochScore, select
from aimbench.models.classifier import Classifier
from aimbench.models.global_norm import GlobalBatchNorm, sum_over_processes
from aimbench.train import checkpoint
from aimbench.train.config import TrainConfig
from aimbench.train.epoch_batches import epoch_batches
from aimbench.train.epochs import EpochStore
from aimbench.train.method import Method
from aimbench.train.optim import make_optimizer, set_learning_rate, set_train_mode, set_trainable
from aimbench.train.phase import Fitted, Phase, Progress
from aimbench.train.predictions import Embeddings, Inference, Predictions
from aimbench.train.progress import Reporter
from aimbench.train.run import Run
from aimbench.train.sources import RunData
from aimbench.train.whole_batch import sharing


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
        self._inference = Inference(fabric, data, config, reporter)
        self.model = self._fresh()
        self.earlier_seconds = 0.0  # wall time of the sessions before this one
        self._started = time.perf_counter()
        self._resume: dict[str, Any] | None = None
        self._warned: list[str] = []  # what was wrong with the masks at the end of the last epoch
        self._optimizer_state: dict[str, Any] | None = None  # of the last phase, for one that goes on with it

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
            self.seed,
            self.folder / "artifacts",
            self,
        )
        names: set[str] = set()
        for number, phase in enumerate(self.method.phases(run)):
            if phase.name in names:
                raise ConfigError(f"method '{self.method.name}' has two phases called '{phase.name}'; rename one")
            names.add(phase.name)
            self._run_phase(number, phase)
            run.finished(phase.name)
        self.load_state(checkpoint.load(self.selected_file)["model"])
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
            chosen = checkpoint.load(self.selected_file)
            predictions["val"] = self.epochs.predictions(chosen["phase"], chosen["epoch"])["val"]
        return predictions

    def embed(self, split: str) -> Embeddings:
        """Embeddings of the model as it stands."""
        return self._inference.embed(self.model, split)

    def photographs(self, split: str) -> Iterator[Batch]:
        """Batches of images in the split's order, on the device, without augmentation."""
        return self._inference.photographs(split)

    @contextmanager
    def selected(self) -> Iterator[Classifier]:
        """The model of the epoch that the selector chose in the last phase; afterwards the last one again."""
        last = {name: value.clone() for name, value in self._state().items()}
        self.load_state(checkpoint.load(self.selected_file)["model"])
        self.model.eval()
        try:
            yield self.model
        finally:
            self.load_state(last)

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
        model = self._build()
        if share().count > 1:
            GlobalBatchNorm.replace_in(model)
        model = model.to(self.fabric.device)
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
        if self._resume is not None and number < self._resume["phase"]:
            self.load_state(checkpoint.load(self._phase_file(number))["model"])
            return
        if number > 0:
            self._start(phase)
        set_trainable(self.model, config.train)
        torch.manual_seed(_seed(self.seed, 1, number))
        if phase.fit is None:
            self._train_phase(number, phase, config, epochs)
        else:
            self._fit_phase(number, phase, phase.fit, epochs)
        if is_first():
            checkpoint.save(self._phase_file(number), {"model": self._state()})
        wait()

    def _start(self, phase: Phase) -> None:
        if phase.start == "pretrained":
            self.model = self._fresh()
        elif phase.start == "new_head":
            backbone = {name: value.clone() for name, value in self.model.pyramid.state_dict().items()}
            self.model = self._fresh()
            self.model.pyramid.load_state_dict(backbone)

    def _train_phase(self, number: int, phase: Phase, config: TrainConfig, epochs: int) -> None:
        optimizer = make_optimizer(self.model, config, self.method.learning_rates())
        model, optimizer = self.fabric.setup(self.model, optimizer)
        if phase.keep_optimizer:
            config = config.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0})
            if self._optimizer_state is not None:
                optimizer.load_state_dict(self._optimizer_state)
                for group in optimizer.param_groups:
                    group["base_lr"] = group["lr"]
        for epoch in range(self._restore(optimizer), epochs):
            self._train_epoch(model, optimizer, config, phase, number, epoch, epochs)
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
            self.clock.log.append({"phase": phase.name, "epoch": epoch, **fitted.log})
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
        self.method.state = state["method"]
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
        plan = epoch_batches(self.data, phase, config, _seed(self.seed, 2, number, epoch))
        steps = plan.steps
        started, images = time.perf_counter(), 0
        sums: dict[str, float] = {}
        set_train_mode(self.model)
        with self.reporter.task(f"{phase.name} {epoch + 1}/{epochs}", plan.samples) as task:
            for step, batch in enumerate(plan.batches, start=epoch * steps):
                set_learning_rate(optimizer, config, step, epochs * steps, steps)
                loaded = batch.to(self.fabric.device, channels_last=config.channels_last)
                size = min(config.batch_size, plan.samples - images)  # over all processes
                progress = Progress(epoch, epochs, step, epochs * steps)
                values = self._step(model, optimizer, loaded, size, config, progress)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value * size
                images += size
                task.advance(size, {name: total / images for name, total in sums.items()})
        self.clock.seconds += time.perf_counter() - started
        self.clock.images += images
        self.clock.log.append(
            {"phase": phase.name, "epoch": epoch, **{name: total / images for name, total in sums.items()}}
        )

    def _step(
        self, model: Any, optimizer: Any, batch: Any, size: int, config: TrainConfig, progress: Progress
    ) -> dict[str, float]:
        """One step on ``batch``, this process's part of ``size`` samples; what it logs is of all of them."""
        with sharing(share(), size):
            result = self.method.loss(model, batch, progress)
        values = {"loss": result} if isinstance(result, Tensor) else dict(result)
        loss = values["loss"]
        if share().count > 1:
            part = len(batch) / size
            values = _over_processes(values, part)
            # Fabric averages the gradients of the processes, whose parts of the batch may differ.
            loss = loss * (part * share().count)
        if not torch.isfinite(values["loss"]):
            raise ConfigError(
                f"the loss of method '{self.method.name}' became {values['loss'].item()} in epoch"
                f" {progress.epoch + 1}; lower --lr or --set the method's weights"
            )
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if config.grad_clip is not None:
            self.fabric.clip_gradients(model, optimizer, max_norm=config.grad_clip)
        optimizer.step()
        return {name: float(value.detach()) for name, value in values.items()}

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
        model = self._state()
        self.clock.wall = self.earlier_seconds + time.perf_counter() - self._started
        candidates = [s for s in scores if s.phase == phase.name and s.is_candidate]
        if is_first():
            if not candidates or candidates[select(self.selector, candidates)].epoch == epoch:
                checkpoint.save(self.selected_file, {"model": model, "phase": phase.name, "epoch": epoch})
            checkpoint.save(
                self.last_file,
                {
                    "phase": number,
                    "epoch": epoch,
                    "model": model,
                    "optimizer": {} if optimizer is None else optimizer.state_dict(),
                    "method": self.method.state,
                    "random": random,
                    "clock": vars(self.clock),
                },
            )
        wait()
        logged = {k: v for k, v in self.clock.log[-1].items() if isinstance(v, float) and not k.startswith("val ")}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in logged.items())
        val = scores[-1].val
        self.fabric.log_dict(
            {**{f"train/{k}": v for k, v in logged.items()}, **{f"val/{k}": v for k, v in val.items()}},
            step=len(self.clock.log),
        )
        for logger in self.fabric.loggers:
            logger.save()
        self.reporter.line(
            f"{phase.name} {epoch + 1}/{epochs}  {shown}  val accuracy {val['accuracy']:.3f}"
            f"  worst group {val['worst_group_accuracy']:.3f}"
        )
        self._report_masks(health, is_candidate=is_candidate)

    def _report_masks(self, health: Mapping[str, float], *, is_candidate: bool) -> None:
        """Health of the method's own masks on the validation split, and what is wrong with them.

        While a target is still being reached, masks that are open are as they should be.
        """
        if not health:
            return
        self.reporter.line(f"  masks on val: {health_summary(health)}")
        found = health_warnings(health) if is_candidate else []
        for warning in found:
            if warning not in self._warned:
                self.reporter.warn(warning)
        self._warned = found

    def scores(self) -> list[EpochScore]:
        """Headline metrics of every epoch so far, in order."""
        return self.epochs.scores(self.data.dataset)

    def _phase_file(self, number: int) -> Path:
        return self.folder / f"phase-{number}.pt"


def _over_processes(values: Mapping[str, Tensor], part: float) -> dict[str, Tensor]:
    """Means over the whole batch; ``part`` of it is in this process, whose own means are NaN where it is empty."""
    own = torch.stack([value.detach().double() for value in values.values()])
    means = sum_over_processes(own * part if part else torch.zeros_like(own))
    return dict(zip(values, means, strict=True))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
