"""The gradient steps of one epoch, in one process or in several that share each batch."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from aimbench.data.batch import Batch
from aimbench.data.sharing import share
from aimbench.errors import ConfigError
from aimbench.models.classifier import Classifier
from aimbench.models.global_norm import sum_over_processes
from aimbench.train.config import TrainConfig
from aimbench.train.epoch_batches import EpochBatches
from aimbench.train.method import Method
from aimbench.train.optim import set_learning_rate, set_train_mode
from aimbench.train.phase import Progress
from aimbench.train.progress import Reporter, Task
from aimbench.train.whole_batch import sharing

READ_EVERY = 20
"""Steps after which the losses are read. Reading waits for a GPU, which would then stand idle between two steps."""


@dataclass(frozen=True)
class Taken:
    """An epoch of steps: its seconds, its images over all processes, and the mean over them of what was logged."""

    seconds: float
    images: int
    means: dict[str, float]


class Steps:
    """Takes the steps of a phase.

    Args:
        fabric: devices and precision.
        method: what to minimise.
        classifier: the model.
        model: the same, as ``fabric.setup`` returned it.
        optimizer: likewise.
        config: with the phase's settings applied.
        reporter: shows progress.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        classifier: Classifier,
        model: Any,
        optimizer: Any,
        config: TrainConfig,
        reporter: Reporter,
    ) -> None:
        self.classifier = classifier
        self._fabric = fabric
        self._method = method
        # In one process at full precision Fabric's wrapper has nothing to do, and costs a tenth of a small step.
        self._model = classifier if share().count == 1 and config.precision == "32-true" else model
        self._optimizer = optimizer
        self._config = config
        self._reporter = reporter

    def epoch(self, plan: EpochBatches, phase: str, epoch: int, epochs: int) -> Taken:
        """Every batch of ``plan``, which is epoch ``epoch`` of ``epochs`` of the phase called ``phase``.

        Raises:
            ConfigError: the loss is no longer a finite number.
        """
        config, steps = self._config, plan.steps
        started, images = time.perf_counter(), 0
        set_train_mode(self.classifier)
        with self._reporter.task(f"{phase} {epoch + 1}/{epochs}", plan.samples) as task:
            seen = _Seen(self._method.name, epoch, task)
            for number, batch in enumerate(plan.batches, start=epoch * steps):
                set_learning_rate(self._optimizer, config, number, epochs * steps, steps)
                loaded = batch.to(self._fabric.device, channels_last=config.channels_last)
                size = min(config.batch_size, plan.samples - images)  # over all processes
                seen.add(self.step(loaded, size, Progress(epoch, epochs, number, epochs * steps)), size)
                images += size
            seen.read()
        return Taken(time.perf_counter() - started, images, seen.means())

    def step(self, batch: Batch, size: int, progress: Progress) -> dict[str, Tensor]:
        """One step on ``batch``, this process's part of ``size`` samples; what it logs is of all of them."""
        with sharing(share(), size):
            result = self._method.loss(self._model, batch, progress)
        values = self._checked(result)
        loss = values["loss"]
        values = {name: value.detach() for name, value in values.items()}
        if share().count > 1:
            part = len(batch) / size
            values = _over_processes(values, part)
            # Fabric averages the gradients of the processes, whose parts of the batch may differ.
            loss = loss * (part * share().count)
        self._optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        if self._config.grad_clip is not None:
            # A scaler skips the step whose gradients overflow, and a loss that is no number is named when it is read.
            self._fabric.clip_gradients(
                self._model, self._optimizer, max_norm=self._config.grad_clip, error_if_nonfinite=False
            )
        self._optimizer.step()
        # A method may log a parameter or its own state, which later steps change before the value is read.
        return {name: value.clone() for name, value in values.items()}

    def _checked(self, result: Any) -> dict[str, Tensor]:
        """What ``Method.loss`` returned, as tensors by name with one called ``loss`` that can be minimised."""
        values = {"loss": result} if isinstance(result, Tensor) else dict(result) if isinstance(result, Mapping) else {}
        loss = values.get("loss")
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise ConfigError(
                f"method '{self._method.name}': its loss returned {_in_words(result, loss)}; return one number that"
                " depends on the model, or a mapping with it under 'loss'"
            )
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.ndim != 0:
                raise ConfigError(
                    f"method '{self._method.name}': its loss logs '{name}' as no tensor of one number; reduce it, or"
                    " wrap it with torch.tensor"
                )
        return values


def _in_words(result: Any, loss: Any) -> str:
    if not isinstance(loss, Tensor):
        return type(result).__name__
    return f"shape {tuple(loss.shape)}" if loss.ndim else "a number without a gradient"


class _Seen:
    """What the steps of an epoch logged: kept on the device, read and shown now and then."""

    def __init__(self, method: str, epoch: int, task: Task) -> None:
        self._method = method
        self._epoch = epoch
        self._task = task
        self._waiting: list[tuple[dict[str, Tensor], int]] = []
        self._sums: dict[str, float] = {}
        self._images = 0

    def add(self, values: dict[str, Tensor], size: int) -> None:
        """Notes a step on ``size`` samples."""
        self._waiting.append((values, size))
        if len(self._waiting) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Adds up what was noted.

        Raises:
            ConfigError: a loss is not finite.
        """
        before = self._images
        for tensors, size in self._waiting:
            values = {name: float(tensor) for name, tensor in tensors.items()}
            if not math.isfinite(values["loss"]):
                raise ConfigError(
                    f"the loss of method '{self._method}' became {values['loss']} in epoch {self._epoch + 1};"
                    " lower --lr or --set the method's weights"
                )
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * size
            self._images += size
        self._waiting.clear()
        self._task.advance(self._images - before, self.means())

    def means(self) -> dict[str, float]:
        """Over the samples read so far."""
        return {name: total / self._images for name, total in self._sums.items()}


def _over_processes(values: Mapping[str, Tensor], part: float) -> dict[str, Tensor]:
    """Means over the whole batch; ``part`` of it is in this process, whose own means are NaN where it is empty."""
    own = torch.stack([value.double() for value in values.values()])
    means = sum_over_processes(own * part if part else torch.zeros_like(own))
    return dict(zip(values, means, strict=True))
