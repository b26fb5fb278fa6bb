"""Predictions of every epoch on every evaluation split, so that any selector can be applied later."""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from aimbench.data.dataset import ShardDataset
from aimbench.errors import ConfigError
from aimbench.metrics.groups import headline
from aimbench.metrics.selectors import EpochScore
from aimbench.train.predictions import Predictions
from aimbench.whole_files import whole_file


class EpochStore:
    """One Parquet file an epoch in the run's working folder, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[str, int, bool, dict[str, Predictions]]] = {}

    def write(
        self,
        phase: str,
        number: int,
        epoch: int,
        predictions: Mapping[str, Predictions],
        *,
        is_candidate: bool = True,
    ) -> None:
        """Saves an epoch; ``number`` orders the phases, ``is_candidate`` says that a selector may choose it."""
        frames = [
            pd.DataFrame(
                {
                    "phase": phase,
                    "epoch": np.int32(epoch),
                    "candidate": is_candidate,
                    "split": split,
                    "index": np.arange(len(rows.label), dtype=np.int32),
                    "label": rows.label.astype(np.int32),
                    "prediction": rows.prediction.astype(np.int32),
                    "probability": rows.probability,
                }
            )
            for split, rows in predictions.items()
        ]
        path = self._folder / f"{number:02d}-{epoch:05d}.parquet"
        with whole_file(path) as file:
            pd.concat(frames, ignore_index=True).to_parquet(file, compression="zstd", index=False)
        self._read.pop(path, None)  # of a session that was killed before its checkpoint

    def read(self) -> Iterator[tuple[str, int, bool, dict[str, Predictions]]]:
        """``(phase, epoch, is a candidate, predictions by split)`` in the order of training."""
        for path in sorted(self._folder.glob("*.parquet")):
            if path not in self._read:
                frame = _read_file(path)
                splits = {
                    str(split): Predictions(
                        rows["label"].to_numpy(np.int64),
                        rows["prediction"].to_numpy(np.int64),
                        rows["probability"].to_numpy(np.float32),
                    )
                    for split, rows in frame.groupby("split", sort=False)
                }
                first = frame.iloc[0]
                self._read[path] = (
                    str(first["phase"]),
                    int(first["epoch"]),
                    bool(first["candidate"]),
                    splits,
                )
            yield self._read[path]

    def check_whole(self, trained: Sequence[tuple[str, int]]) -> None:
        """Checks that every epoch ``(phase, epoch)`` that was trained before is here.

        What follows them was written without a checkpoint, perhaps cut, and is written anew.

        Raises:
            ConfigError: one is not, or a file is damaged.
        """
        there = {(phase, epoch) for phase, epoch, _, _ in islice(self.read(), len(trained))}
        for phase, epoch in trained:
            if (phase, epoch) not in there:
                raise ConfigError(f"{self._folder} lacks epoch {epoch + 1} of phase '{phase}'; {_mend(self._folder)}")

    def predictions(self, phase: str, epoch: int) -> dict[str, Predictions]:
        """Predictions of one epoch by split."""
        return next(stored for name, number, _, stored in self.read() if (name, number) == (phase, epoch))

    def scores(self, dataset: ShardDataset) -> list[EpochScore]:
        """Headline metrics of every epoch on ``val`` and ``test``, in the order of training."""
        groups = {split: dataset.split(split).group for split in ("val", "test")}
        return [
            EpochScore(
                phase=phase,
                epoch=epoch,
                val=headline(stored["val"].label, stored["val"].prediction, groups["val"]),
                test=headline(stored["test"].label, stored["test"].prediction, groups["test"]),
                is_candidate=is_candidate,
            )
            for phase, epoch, is_candidate, stored in self.read()
        ]

    def table(self) -> bytes:
        """All epochs as one Parquet file: phase, epoch, candidate, split, index, prediction, probability."""
        frames = [_read_file(path) for path in sorted(self._folder.glob("*.parquet"))]
        buffer = io.BytesIO()
        pd.concat(frames, ignore_index=True).drop(columns="label").to_parquet(buffer, compression="zstd", index=False)
        return buffer.getvalue()


def _read_file(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"epoch {path} can't be read ({error}); {_mend(path.parent)}") from error
    if frame.empty:
        raise ConfigError(f"epoch {path} is empty; {_mend(path.parent)}")
    return frame


def _mend(folder: Path) -> str:
    return f"remove {folder.parent}, or give --fresh, and the run starts over"
