"""Methods of several phases that are killed in every epoch of every phase end as if they had run through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimbench.train.loop import Trainer

QUICK: dict[str, dict[str, Any]] = {
    "crt": {},
    "dfr_val": {"inverse_strengths": (0.3, 0.03), "retrains": 1},
    "afr": {"steps": 10, "candidates": 3},
    "cnc": {"samples": 8},
    "masktune": {},
}


class _KilledError(BaseException):
    """Stands for the kill; no handler of the engine catches it."""


@pytest.mark.parametrize("method", QUICK)
def test_killed_in_every_epoch(
    method: str, experiment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(name: str) -> Any:
        return experiment(method, settings=QUICK[method], runs_root=tmp_path / name, epg_samples=0)

    whole = trial("whole").run()
    end_epoch, ended = Trainer._end_epoch, 0

    def die_at_the_second(*args: Any, **kwargs: Any) -> None:
        nonlocal ended
        ended += 1
        if ended == 2:
            raise _KilledError
        end_epoch(*args, **kwargs)

    monkeypatch.setattr(Trainer, "_end_epoch", die_at_the_second)
    for _ in whole.record.phases[1:]:
        ended = 0
        with pytest.raises(_KilledError):
            trial("killed").run()
    ended = 0
    again = trial("killed").run()
    assert again.files["epochs"] == whole.files["epochs"]
    assert again.files["predictions"] == whole.files["predictions"]
    assert again.record.metrics == whole.record.metrics
    assert again.record.phases == whole.record.phases
