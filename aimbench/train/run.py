"""What a method's phases may ask of the run they belong to."""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aimbench.data.batch import Batch
from aimbench.data.dataset import ShardDataset
from aimbench.data.sharing import is_first, share, wait
from aimbench.errors import ConfigError, RegimeError
from aimbench.models.classifier import Classifier
from aimbench.train.config import TrainConfig
from aimbench.train.method import Regime
from aimbench.train.predictions import Embeddings, Predictions
from aimbench.train.progress import Reporter
from aimbench.whole_files import whole_file

METHOD_SPLITS = ("train", "val")
T = TypeVar("T", Predictions, Embeddings)


class Engine(Protocol):
    """What the training loop does for a run."""

    reporter: Reporter

    def predict(self, split: str) -> Predictions:
        """Predictions of the model as it stands."""
        ...

    def embed(self, split: str) -> Embeddings:
        """Embeddings of the model as it stands."""
        ...

    def maps(self, split: str) -> Iterator[Batch]:
        """Batches of images, or of a frozen backbone's maps, in the split's order, on the device, not augmented."""
        ...

    def selected(self) -> AbstractContextManager[Classifier]:
        """The model of the epoch that the selector chose in the last phase, in evaluation mode."""
        ...


class Run:
    """A run as its method sees it: training labels, and what the model so far says of its samples.

    Attributes:
        config: the shared training settings.
        seed: of everything random.
        num_classes: of the dataset.
        num_groups: of the dataset.
        labels: ``(N_train,)`` class indices.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        config: TrainConfig,
        regime: Regime,
        seed: int,
        artifacts: Path,
        engine: Engine,
    ) -> None:
        self.config = config
        self.seed = seed
        self.num_classes = len(dataset.manifest.classes)
        self.num_groups = len(dataset.manifest.groups)
        self.labels: npt.NDArray[np.int64] = dataset.split("train").label
        self._dataset = dataset
        self._regime = regime
        self._artifacts = artifacts
        self._engine = engine
        self._phase = "start"

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """``(N_train,)`` group indices, for regimes that train on groups."""
        if self._regime.train != "groups":
            raise RegimeError("run.groups was asked for, but the method's regime does not train on groups")
        return self._dataset.split("train").group

    @property
    def val_groups(self) -> npt.NDArray[np.int64]:
        """``(N_val,)`` group indices of the validation split, for regimes that train on it."""
        self._must_train_on_val("run.val_groups")
        return self._dataset.split("val").group

    def warn(self, text: str) -> None:
        """Says on a line that stays that this run is not what the method is meant for."""
        self._engine.reporter.warn(text)

    def predict(self, split: str = "train") -> Predictions:
        """Predictions of the model as it stands after the last finished phase; kept for a resumed run.

        Raises:
            RegimeError: ``split`` is test data.
        """
        if split not in METHOD_SPLITS:
            raise RegimeError(f"a method may predict {' or '.join(METHOD_SPLITS)} in its phases, not '{split}'")
        return self._kept(f"{split}", Predictions, lambda: self._engine.predict(split))

    def embeddings(self, split: str = "train") -> Embeddings:
        """Embeddings after the last finished phase; kept for a resumed run.

        Raises:
            RegimeError: ``split`` is test data, or ``val`` and the regime does not train on it.
        """
        if split not in METHOD_SPLITS:
            raise RegimeError(f"a method may embed {' or '.join(METHOD_SPLITS)} in its phases, not '{split}'")
        if split == "val":
            self._must_train_on_val("run.embeddings('val')")
        return self._kept(f"{split}-embeddings", Embeddings, lambda: self._engine.embed(split))

    def map_training(self, name: str, function: Callable[[Classifier, Batch], torch.Tensor]) -> torch.Tensor:
        """Applies ``function`` to every training sample with the last phase's selected model; kept under ``name``.

        Args:
            name: of what is computed.
            function: gets the model in evaluation mode and a batch without augmentation, which holds images or, if
                the backbone is frozen, the maps of it that the head reads; its result has a row for each sample.

        Returns:
            All rows, ``(N_train, ...)``.
        """
        if share().count > 1:
            raise ConfigError(f"'{name}' maps the training images in one process; run it with --devices 1")
        path = self._artifacts / f"{self._phase}-{name}.npy"
        if not path.exists():
            with self._engine.selected() as model:
                rows = [function(model, batch).detach().cpu() for batch in self._engine.maps("train")]
            with whole_file(path) as file:
                np.save(file, torch.cat(rows).numpy())
        with _names_damage(path):
            return torch.from_numpy(np.load(path, allow_pickle=False))

    def finished(self, phase: str) -> None:
        """Told by the engine when a phase has ended."""
        self._phase = phase

    def _kept(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        path = self._artifacts / f"{self._phase}-{name}.npz"
        if not path.exists():
            value = compute()  # by all processes together
            if is_first():
                value.save(path)
            wait()
        with _names_damage(path):
            return kind.load(path)

    def _must_train_on_val(self, what: str) -> None:
        if self._regime.train != "val_groups":
            raise RegimeError(f"{what} was asked for, but the method's regime does not train on the validation split")


@contextmanager
def _names_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it, and the run computes it again") from error
