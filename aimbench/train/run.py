"""What a method's phases may ask of the run they belong to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aimbench.data.dataset import ShardDataset
from aimbench.errors import RegimeError
from aimbench.train.config import TrainConfig
from aimbench.train.method import Regime
from aimbench.train.predictions import Predictions

METHOD_SPLITS = ("train", "val")


class Run:
    """A run as its method sees it: training labels and predictions of the model so far.

    Attributes:
        config: the shared training settings.
        num_classes: of the dataset.
        labels: ``(N_train,)`` class indices.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        config: TrainConfig,
        regime: Regime,
        artifacts: Path,
        predict: Callable[[str], Predictions],
    ) -> None:
        train = dataset.split("train")
        self.config = config
        self.num_classes = len(dataset.manifest.classes)
        self.num_groups = len(dataset.manifest.groups)
        self.labels: npt.NDArray[np.int64] = train.label
        self._groups: npt.NDArray[np.int64] = train.group
        self._regime = regime
        self._artifacts = artifacts
        self._predict = predict
        self._phase = "start"

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(N_train,)`` group indices, for regimes that train on groups."""
        if self._regime.train != "groups":
            raise RegimeError("run.groups was asked for, but the method's regime does not train on groups")
        return self._groups

    def predict(self, split: str = "train") -> Predictions:
        """Predictions of the model as it stands after the last finished phase; kept for a resumed run.

        Raises:
            RegimeError: ``split`` is test data.
        """
        if split not in METHOD_SPLITS:
            raise RegimeError(f"a method may predict {' or '.join(METHOD_SPLITS)} in its phases, not '{split}'")
        path = self._artifacts / f"{self._phase}-{split}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._predict(split).save(path)
        return Predictions.load(path)

    def finished(self, phase: str) -> None:
        """Told by the engine when a phase has ended."""
        self._phase = phase
