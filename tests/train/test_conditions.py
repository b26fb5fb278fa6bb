"""TravelingBirds' own accuracies: before training places, rolled and black, and what is lost between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.results.store import Store
from aimbench.results.summary import headline_text


def test_every_condition_and_the_drop_are_printed(experiment: Callable[..., Any], tmp_path: Path) -> None:
    trial = experiment("erm", dataset="travelingbirds@mini", training={"epochs": 4, "lr": 0.05}, epg_samples=0)
    result = trial.run()
    store = Store(tmp_path / "results")
    path = store.write_run(result.record, result.files)
    # Independent: counted in the saved predictions.
    table = pd.read_parquet(path.with_suffix(".predictions.parquet"))
    right = (table["prediction"] == table["label"]).groupby(table["split"]).mean()
    home, away, black = (float(right[s]) for s in ("test_training_places", "test", "test_black"))
    assert home > away  # the planted cue: each species stands before another one's place
    shown = CliRunner().invoke(app, ["results", "show", trial.id, "--results", str(store.root)])
    assert shown.exit_code == 0, shown.output
    words = f"from training places {home:.1%} to test {away:.1%}: {100 * (home - away):.1f} points"
    assert f"drop      {words}" in shown.output
    assert f"from black {black:.1%} to test {away:.1%}: {100 * (black - away):.1f} points" in shown.output
    assert f"drop {words}" in headline_text(result.record)
