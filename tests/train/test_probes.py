"""Probes of a trained run, through the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimbench.cli import main
from aimbench.results.store import Store, parquet_name
from aimbench.results.validate import check_record
from aimbench.train.probes import relative_foreground_sensitivity


def test_relative_foreground_sensitivity_by_hand() -> None:
    # Mean 0.6, room 0.4: (0.8 - 0.4) / 0.8.
    assert relative_foreground_sensitivity(0.4, 0.8) == pytest.approx(0.5)
    assert relative_foreground_sensitivity(0.8, 0.4) == pytest.approx(-0.5)
    assert relative_foreground_sensitivity(0.0, 0.5) == pytest.approx(1.0)
    assert relative_foreground_sensitivity(1.0, 1.0) == 0.0


@pytest.mark.parametrize("method", ["erm", pytest.param("oracle_mask", marks=pytest.mark.slow)])
def test_probes_are_written_into_the_record(
    method: str,
    experiment: Callable[..., Any],
    mini_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = experiment(method, training={"epochs": 1})
    result = trial.run()
    store = Store(tmp_path / "results")
    path = store.write(result.record, {parquet_name(trial.id, name): data for name, data in result.files.items()})
    before = json.loads(path.read_text())

    def probe(*words: str) -> tuple[int, str]:
        roots = ["--data", str(mini_root), "--runs", str(tmp_path / "runs"), "--results", str(store.root)]
        monkeypatch.setattr(sys, "argv", ["aimbench", "probe", trial.id, *roots, *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    assert probe("--samples", "12", "--tests", "greyed,rfs")[0] == 0
    assert probe("--samples", "12", "--tests", "centre-bias,ablations,faithfulness")[0] == 0
    after = json.loads(path.read_text())
    probes = after.pop("probes")
    before.pop("probes")
    assert after == before  # nothing else changes
    changes = {"grey_outside", "grey_object", "grey_box", "tile_box", "moved_to_border", "cut_as_if_moved"}
    changes |= {"noise_on_object", "noise_on_background"}
    areas = {f"{kind}_{name}" for kind in ("deletion", "insertion") for name in ("gradcam", "input_x_gradient")}
    assert set(probes) == {"accuracy", "rfs", *(f"accuracy_{change}" for change in changes), *areas}
    for name, value in probes.items():
        assert value["n"] == 12, name
        assert value["low"] <= value["value"] <= value["high"], name
    assert check_record(store, path) == []

    assert probe("--tests", "gryed") == (2, "error: unknown probe 'gryed': did you mean 'greyed'?\n")
    assert "give at least 1" in probe("--samples", "0")[1]
