"""A compiled backbone gives the run that it would give otherwise."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("method", ["erm", "aim"])
def test_same_record_up_to_rounding(method: str, experiment: Callable[..., Any], tmp_path: Path) -> None:
    training = {"train": "all", "epochs": 1, "optimizer": "sgd", "lr": 0.01}
    plain, compiled = (
        experiment(method, compile=option, runs_root=tmp_path / str(option), training=training)
        for option in (False, True)
    )
    assert compiled.id == plain.id
    expected, record = plain.run().record, compiled.run().record
    assert record.environment["compiled"]
    assert record.phases[0]["loss"] == pytest.approx(expected.phases[0]["loss"], rel=1e-3)
    for name, score in expected.metrics["test"].epg.items():
        assert record.metrics["test"].epg[name].value == pytest.approx(score.value, abs=0.02)
    state = (compiled.folder / "selected.pt").stat().st_size
    assert state == pytest.approx((plain.folder / "selected.pt").stat().st_size, rel=0.01)
