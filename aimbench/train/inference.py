"""Runs a model over whole splits."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from aimbench.data.batch import Batch
from aimbench.data.sharing import gather, share
from aimbench.errors import ConfigError
from aimbench.metrics.health import MaskHealth
from aimbench.models.classifier import Classifier, Output
from aimbench.train.config import TrainConfig
from aimbench.train.predictions import Embeddings, Predictions, all_rows, what_it_says
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData


class Inference:
    """Runs a model in evaluation mode over whole splits, each sample exactly once.

    Several processes divide the batches among them, and each returns all rows.

    Args:
        fabric: device and precision.
        data: the run's sources.
        config: memory layout and batch size.
        reporter: shows progress.
    """

    def __init__(self, fabric: Fabric, data: RunData, config: TrainConfig, reporter: Reporter) -> None:
        self._fabric = fabric
        self._data = data
        self._config = config
        self._reporter = reporter

    def predict(self, model: nn.Module, split: str) -> Predictions:
        """What ``model`` says of every sample of a split."""
        columns: dict[str, list[Tensor]] = {}
        health = MaskHealth()
        for batch, output in self._outputs(model, split):
            for name, column in what_it_says(output, batch).items():
                columns.setdefault(name, []).append(column)
            if output.masks and split == "val":
                region = self._data.regions(split).take(batch.index)
                health.update(output.masks, region.to(output.logits.device))
        found = Predictions.from_columns(all_rows(self._positions(split), columns))
        return replace(found, mask_health=health.compute())

    def embed(self, model: nn.Module, split: str) -> Embeddings:
        """The head's embedding of every sample of a split.

        Raises:
            ConfigError: the head gives no embedding.
        """
        rows: list[npt.NDArray[np.float32]] = []
        labels: list[npt.NDArray[np.int64]] = []
        for batch, output in self._outputs(model, split):
            if output.embedding is None:
                raise ConfigError("the method asks for embeddings, but its head's Output holds none")
            rows.append(output.embedding.float().cpu().numpy())
            labels.append(batch.label.numpy())
        parts = gather((self._positions(split), np.concatenate(rows), np.concatenate(labels)))
        _, first = np.unique(np.concatenate([index for index, _, _ in parts]), return_index=True)
        embedding, label = (np.concatenate([part[column] for part in parts])[first] for column in (1, 2))
        return Embeddings(embedding, label)

    def maps(self, model: Classifier, split: str) -> Iterator[Batch]:
        """Batches of images, or of a frozen backbone's maps, in the split's order, on the device, not augmented."""
        source = self._data.maps(split, model.head.stages)
        with self._reporter.task(f"maps of {split}", len(source)) as task:
            for batch in source.epoch(np.arange(len(source)), seed=0):
                yield batch.to(self._fabric.device, channels_last=self._config.channels_last)
                task.advance(len(batch))

    def _positions(self, split: str) -> npt.NDArray[np.int64]:
        """Those that this process evaluates."""
        source = self._data.evaluation(split)
        return share().of_split(len(source), source.batch_size)

    def _outputs(self, model: nn.Module, split: str) -> Iterator[tuple[Batch, Output]]:
        """Batches (on the CPU, in the split's order) with what the model says of them."""
        source = self._data.evaluation(split)
        model.eval()
        for batch in source.epoch(self._positions(split), seed=0):
            with torch.no_grad(), self._fabric.autocast():
                output = model(batch.to(self._fabric.device, channels_last=self._config.channels_last))
            yield batch, output
