"""What a model says of every sample of a split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimbench.data.batch import Batch
from aimbench.data.sharing import gather
from aimbench.errors import ConfigError
from aimbench.models.classifier import Output
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
