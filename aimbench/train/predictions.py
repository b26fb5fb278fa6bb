"""What a model said of every sample of a split."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aimbench.models.classifier import Output
from aimbench.train.sources import Source


@dataclass(frozen=True)
class Predictions:
    """One row a sample, in the split's order.

    Attributes:
        label, prediction: ``(N,)`` class indices.
        probability: ``(N,)`` softmax probability of the true class.
        heads: predictions ``(N,)`` of the method's further classifiers, by name. Not saved.
    """

    label: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    heads: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def errors(self) -> npt.NDArray[np.int64]:
        """Positions of the misclassified samples."""
        return np.flatnonzero(self.prediction != self.label)

    def save(self, path: Path) -> None:
        """Writes the arrays to ``path`` (.npz), whole or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, label=self.label, prediction=self.prediction, probability=self.probability)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Reads what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["label"], arrays["prediction"], arrays["probability"])


@torch.no_grad()
def predict_split(model: nn.Module, source: Source, device: torch.device, *, channels_last: bool) -> Predictions:
    """Runs ``model`` in evaluation mode over every sample of ``source``, each exactly once."""
    model.eval()
    size = len(source)
    prediction = np.zeros(size, dtype=np.int64)
    probability = np.zeros(size, dtype=np.float32)
    label = np.zeros(size, dtype=np.int64)
    heads: dict[str, npt.NDArray[np.int64]] = {}
    for batch in source.epoch(np.arange(size), seed=0):
        output: Output = model(batch.to(device, channels_last=channels_last))
        scores = output.logits.float().softmax(dim=1).cpu()
        index = batch.index.numpy()
        prediction[index] = scores.argmax(dim=1).numpy()
        probability[index] = scores.gather(1, batch.label[:, None]).squeeze(1).numpy()
        label[index] = batch.label.numpy()
        for name, logits in _further_heads(output).items():
            heads.setdefault(name, np.zeros(size, dtype=np.int64))[index] = logits.argmax(dim=1).cpu().numpy()
    return Predictions(label, prediction, probability, heads)


def _further_heads(output: Output) -> dict[str, Tensor]:
    if not output.stage_logits:
        return {}
    return {**output.stage_logits, "mean": torch.stack(list(output.stage_logits.values())).mean(dim=0)}
