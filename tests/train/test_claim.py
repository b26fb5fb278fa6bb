"""Of the processes that are asked for the same run, one at a time runs it."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from aimbench.errors import ConfigError
from aimbench.train.claim import claim, claimed

STARTED_BY = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID")


@pytest.mark.parametrize(
    ("environment", "processes", "nodes", "refused"),
    [
        ({}, 1, 1, True),
        ({}, 2, 1, True),  # it starts the other itself
        ({"LOCAL_RANK": "1"}, 2, 1, False),  # the other: the first holds the lock for both
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "1"}, 4, 2, True),
        ({"RANK": "3", "TORCHELASTIC_RUN_ID": "1"}, 4, 2, False),
        ({"SLURM_PROCID": "0"}, 2, 1, False),  # the others would wait for it
        ({"NODE_RANK": "0"}, 4, 2, False),
    ],
)
def test_a_run_that_is_held_is_refused_where_nobody_is_left_waiting(
    environment: dict[str, str],
    processes: int,
    nodes: int,
    refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in STARTED_BY:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    answer = pytest.raises(ConfigError, match="another process is running erm-1") if refused else nullcontext()
    with claim(tmp_path, "erm-1"), answer, claimed(tmp_path, "erm-1", processes=processes, nodes=nodes):
        assert not refused
    with claimed(tmp_path, "erm-1", processes=processes, nodes=nodes):
        pass  # free again
