"""What a model says of every sample of a split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData
from aimbench.whole_files import whole_file

_HEAD = "head "


@dataclass(frozen=True)
class Predictions:
    """One row a sample, in the split's order.

    Attributes:
        label, prediction: ``(N,)`` class indices.
        probability: ``(N,)`` softmax probability of the true class.
        heads: predictions ``(N,)`` of the method's further classifiers, by name. Not saved.
        mask_health: of the method's own masks on the validation split, see ``MaskHealth``. Not saved.
    """

    label: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    heads: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    mask_health: dict[str, float] = field(default_factory=dict)

    def errors(self) -> npt.NDArray[np.int64]:
        """Positions of the misclassified samples."""
        return np.flatnonzero(self.prediction != self.label)

    def save(self, path: Path) -> None:
        """Writes the arrays to ``path`` (.npz), whole or not at all."""
        _save(path, label=self.label, prediction=self.prediction, probability=self.probability)

    @classmethod
    def from_columns(cls, columns: Mapping[str, npt.NDArray[Any]]) -> "Predictions":
        """From the columns of ``what_it_says``, over all samples."""
        heads = {name.removeprefix(_HEAD): rows for name, rows in columns.items() if name.startswith(_HEAD)}
        return cls(columns["label"], columns["prediction"], columns["probability"], heads)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Reads what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["label"], arrays["prediction"], arrays["probability"])


@dataclass(frozen=True)
class Embeddings:
    """What the last linear layer sees of every sample of a split, in the split's order.

    Attributes:
        embedding: ``(N, D)`` float32.
        label: ``(N,)`` class indices.
    """

    embedding: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Writes the arrays to ``path`` (.npz), whole or not at all."""
        _save(path, embedding=self.embedding, label=self.label)

    @classmethod
    def load(cls, path: Path) -> "Embeddings":
        """Reads what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["embedding"], arrays["label"])


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


def what_it_says(output: Output, batch: Batch) -> dict[str, Tensor]:
    """A batch's predictions as columns ``(N,)``: label, prediction, the true class's probability, further heads'.

    Raises:
        ConfigError: a logit is NaN or infinite: its largest would pass for a prediction.
    """
    scores = output.logits.detach().float().softmax(dim=1).cpu()
    if not bool(scores.isfinite().all()):
        key = batch.keys[int(scores.isnan().any(dim=1).nonzero()[0])]
        raise ConfigError(
            f"the model's logits of sample '{key}' are NaN or infinite: its weights are damaged, or its training"
            " diverged; lower --lr or take another checkpoint"
        )
    heads = {name: logits.detach() for name, logits in output.stage_logits.items()}
    if heads:
        heads["mean"] = torch.stack(list(heads.values())).mean(dim=0)
    label = batch.label.cpu()
    return {
        "label": label,
        "prediction": scores.argmax(dim=1),
        "probability": scores.gather(1, label[:, None]).squeeze(1),
        **{_HEAD + name: logits.argmax(dim=1).cpu() for name, logits in heads.items()},
    }


def all_rows(mine: npt.NDArray[np.int64], columns: Mapping[str, list[Tensor]]) -> dict[str, npt.NDArray[Any]]:
    """Each column over all processes, in the order of positions; ``mine`` are those of this process's rows."""
    parts = gather((mine, {name: torch.cat(rows).numpy() for name, rows in columns.items()}))
    _, first = np.unique(np.concatenate([index for index, _ in parts]), return_index=True)
    return {name: np.concatenate([part[name] for _, part in parts])[first] for name in columns}


def _save(path: Path, **arrays: npt.NDArray[np.generic]) -> None:
    with whole_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
