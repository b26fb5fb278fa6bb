"""A killed run goes on as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from aimbench.train import checkpoint
from aimbench.train.loop import Trainer


class _KilledError(BaseException):
    """Stands for the kill; no handler of the engine catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["erm", "aim"])
@pytest.mark.parametrize("where", ["in an epoch", "before the checkpoint"])
def test_resumed_run_equals_an_unbroken_one(
    method: str, where: str, experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"epochs": 3, "train": "all", "augment": True}
    unbroken = experiment(method, runs_root=tmp_path / "whole", training=training)
    expected = unbroken.run()

    killed = experiment(method, runs_root=tmp_path / "killed", training=training)
    calls = 0
    target = (Trainer, "_step") if where == "in an epoch" else (checkpoint, "save")
    original = getattr(*target)

    def die_at_the_ninth(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (9 if where == "in an epoch" else 3):
            raise _KilledError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(*target, die_at_the_ninth)
        with pytest.raises(_KilledError):
            killed.run()
    resumed = experiment(method, runs_root=tmp_path / "killed", training=training)
    assert resumed.is_started
    result = resumed.run()

    assert result.record.metrics == expected.record.metrics
    assert result.record.selectors == expected.record.selectors
    first, second = (
        pd.concat(pd.read_parquet(f) for f in sorted((e.folder / "epochs").glob("*.parquet")))
        for e in (unbroken, resumed)
    )
    np.testing.assert_array_equal(first["prediction"], second["prediction"])
    np.testing.assert_array_equal(first["probability"], second["probability"])
    weights, again = (checkpoint.load(e.folder / "last.pt")["model"] for e in (unbroken, resumed))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
