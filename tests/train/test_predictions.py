"""What a model says of the samples of a split, worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aimbench.data.batch import Batch
from aimbench.errors import ConfigError
from aimbench.models.classifier import Output
from aimbench.train.evaluate import Looked, check_epg_samples, epg_scores, evaluated_positions
from aimbench.train.predictions import Predictions, all_rows, what_it_says


def batch_of(labels: list[int]) -> Batch:
    keys = [f"bird{i}" for i in range(len(labels))]
    return Batch(torch.arange(len(labels)), torch.tensor(labels), image=torch.zeros(len(labels), 3, 2, 2), keys=keys)


def test_the_probability_is_that_of_the_true_class() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(4.0)]])
    said = what_it_says(Output(logits), batch_of([0, 0]))
    assert said["label"].tolist() == [0, 0]
    assert said["prediction"].tolist() == [0, 1]
    assert said["probability"].tolist() == pytest.approx([3 / 4, 1 / 5])
    assert set(said) == {"label", "prediction", "probability"}


def test_further_classifiers_stand_beside_their_mean() -> None:
    """Of two classifiers the mean is class 1, which neither sum nor maximum of one alone gives."""
    stages = {
        "stage1": torch.tensor([[9.0, 5.0, 0.0]]),
        "stage2": torch.tensor([[-9.0, 4.0, 6.0]]),
    }
    columns = what_it_says(Output(torch.tensor([[0.0, 0.0, 1.0]]), stage_logits=stages), batch_of([2]))
    found = Predictions.from_columns({name: column.numpy() for name, column in columns.items()})
    assert {name: rows.tolist() for name, rows in found.heads.items()} == {"stage1": [0], "stage2": [2], "mean": [1]}
    assert found.prediction.tolist() == [2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_names_its_sample(value: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, value]])
    with pytest.raises(ConfigError, match="logits of sample 'bird1' are NaN or infinite"):
        what_it_says(Output(logits), batch_of([0, 0]))


def test_rows_come_in_the_splits_order_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two processes the second repeats position 0 to fill its batch.
    parts = [(np.array([0, 3]), {"a": np.array([10, 13])}), (np.array([2, 1, 0]), {"a": np.array([12, 11, 10])})]
    monkeypatch.setattr("aimbench.train.predictions.gather", lambda value: parts)
    assert all_rows(np.array([0, 3]), {"a": [torch.tensor([10, 13])]})["a"].tolist() == [10, 11, 12, 13]


def test_errors_are_the_positions_of_the_wrong_and_files_hold_all(tmp_path: Path) -> None:
    made = Predictions(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0.9, 0.2, 0.8], np.float32))
    assert made.errors().tolist() == [1]
    made.save(tmp_path / "p.npz")
    read = Predictions.load(tmp_path / "p.npz")
    for name in ("label", "prediction", "probability"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_epg_of_a_subset_belongs_to_its_own_samples() -> None:
    """Samples 1, 2 and 4 of five were looked at: right, wrong and right, of groups b, a and b."""
    predictions = Predictions(
        np.array([0, 0, 0, 0, 0]), np.array([1, 0, 1, 1, 0]), np.array([0.1, 0.9, 0.1, 0.1, 0.9], np.float32)
    )
    looked = Looked(
        index=np.array([1, 2, 4]),
        scores={"gradcam": np.array([0.2, 0.9, 0.4], np.float32), "mask": np.full(3, np.nan, np.float32)},
        undefined={"gradcam": np.zeros(3, bool), "mask": np.zeros(3, bool)},
        health={},
    )
    (found,) = epg_scores(looked, predictions, np.array([0, 1, 0, 0, 1]), ["a", "b"]).values()
    assert (found.n, found.value) == (3, pytest.approx(0.5))
    assert (found.correct, found.incorrect) == (pytest.approx(0.3), pytest.approx(0.9))
    assert found.groups == {"a": pytest.approx(0.9), "b": pytest.approx(0.3)}


def test_a_subset_of_all_samples_is_all_of_them_in_order() -> None:
    assert evaluated_positions(5, 5).tolist() == evaluated_positions(5, None).tolist() == [0, 1, 2, 3, 4]
    assert evaluated_positions(5, 0).tolist() == []
    check_epg_samples(0)
    check_epg_samples(None)
    with pytest.raises(ConfigError, match="--epg-samples -1: give 0 or more"):
        check_epg_samples(-1)
