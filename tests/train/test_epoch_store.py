"""The predictions of every epoch, in the order of training."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aimbench.errors import ConfigError
from aimbench.train.epochs import EpochStore
from aimbench.train.predictions import Predictions


def said(*prediction: int) -> dict[str, Predictions]:
    rows = Predictions(
        np.zeros(len(prediction), np.int64), np.array(prediction), np.full(len(prediction), 0.5, np.float32)
    )
    return {"val": rows, "test": rows}


@pytest.fixture
def store(tmp_path: Path) -> EpochStore:
    """Two phases whose names sort against their order; of the first the tenth epoch comes after the second."""
    store = EpochStore(tmp_path / "run" / "epochs")
    store.write("late", 10, 0, said(1, 1, 1), is_candidate=False)
    for epoch in (10, 2):
        store.write("warmup", 2, epoch, said(0, epoch % 3, 1))
    return store


def test_epochs_come_in_the_order_of_training(store: EpochStore, tmp_path: Path) -> None:
    order = [("warmup", 2, True), ("warmup", 10, True), ("late", 0, False)]
    for opened in (store, EpochStore(tmp_path / "run" / "epochs")):
        assert [(phase, epoch, candidate) for phase, epoch, candidate, _ in opened.read()] == order
    table = pd.read_parquet(io.BytesIO(store.table()))
    epochs = table.drop_duplicates(["phase", "epoch"])
    assert list(zip(epochs["phase"], epochs["epoch"], epochs["candidate"], strict=True)) == order
    assert list(table.columns) == ["phase", "epoch", "candidate", "split", "index", "prediction", "probability"]
    assert table["index"].tolist() == [0, 1, 2] * 6


def test_predictions_are_those_of_the_phase_and_the_epoch(store: EpochStore) -> None:
    store.write("late", 10, 2, said(1, 0, 0))
    assert store.predictions("late", 2)["test"].prediction.tolist() == [1, 0, 0]
    assert store.predictions("warmup", 2)["test"].prediction.tolist() == [0, 2, 1]


def test_an_epoch_that_is_written_anew_is_read_anew(store: EpochStore) -> None:
    assert store.predictions("late", 0)["val"].prediction.tolist() == [1, 1, 1]
    store.write("late", 10, 0, said(0, 0, 1))
    assert store.predictions("late", 0)["val"].prediction.tolist() == [0, 0, 1]


def test_what_was_trained_before_must_be_there(store: EpochStore, tmp_path: Path) -> None:
    trained = [("warmup", 2), ("warmup", 10)]
    store.check_whole([*trained, ("late", 0)])
    # What follows the last checkpoint may be cut: it is written anew.
    (tmp_path / "run" / "epochs" / "10-00000.parquet").write_bytes(b"")
    again = EpochStore(tmp_path / "run" / "epochs")
    again.check_whole(trained)
    with pytest.raises(ConfigError, match=r"10-00000\.parquet can't be read .*; remove .*run, or give --fresh"):
        again.check_whole([*trained, ("late", 0)])
    with pytest.raises(ConfigError, match="lacks epoch 4 of phase 'warmup'"):
        again.check_whole([("warmup", 2), ("warmup", 3)])
