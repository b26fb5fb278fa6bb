"""ERM on every mini: right where the planted cue goes with the class, often wrong where it does not."""

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from aimbench.cards import list_cards
from aimbench.data.synth_settings import TEST_PER_SPECIES, TRAIN_PER_SPECIES, TREE_TEST


def cue_goes_with_class(name: str, table: pd.DataFrame) -> "pd.Series[bool]":
    """Tells for each test image whether its scene is its class' own, as the card of the mini says it is planted."""
    if name == "travelingbirds":
        return table["split"] == "test_training_places"
    if name == "waterbirds":
        return table["group"].isin([0, 3])  # landbird on land, waterbird on water
    if name == "cub":  # the first half of a species' test photographs has the species' own habitat
        number = table["key"].str.extract(r"_(\d{4})_\d+$")[0].astype(int) - 1 - TRAIN_PER_SPECIES
        return number < TEST_PER_SPECIES / 2
    number = table["key"].str.extract(r"_(\d{8})$")[0].astype(int) - 1
    return number % TREE_TEST < TREE_TEST / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", list_cards())
def test_erm_falls_for_the_planted_cue(name: str, experiment: Callable[..., Any]) -> None:
    run = experiment(
        dataset=f"{name}@mini",
        backbone="tf_efficientnet_lite0",
        weights="auto",
        epg_samples=0,
        training={"epochs": 10, "batch_size": 16, "image_size": 128},
    ).run()
    table = pd.read_parquet(io.BytesIO(run.files["predictions"]))
    table = table[table["split"].isin(["test", "test_training_places"])]
    right, goes = table["prediction"] == table["label"], cue_goes_with_class(name, table)
    aligned, shifted = right[goes].mean(), right[~goes].mean()
    chance = 1 / table["label"].nunique()
    assert aligned > 3 * chance or aligned > 0.8, f"{name}: the mini is not learnt at all ({aligned:.2f})"
    assert shifted < aligned - 0.1, f"{name}: {aligned:.2f} with the cue, {shifted:.2f} without"
