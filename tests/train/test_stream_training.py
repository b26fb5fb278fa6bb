"""Training from a stream of shards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aimbench.data.stream import StreamSource
from aimbench.errors import ConfigError
from aimbench.train.method import Phase


def test_a_streamed_run_trains_on_every_sample_once_an_epoch(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = StreamSource.epoch

    def watched(self: StreamSource, seed: int, *, drop_last: bool = False) -> Any:
        for batch in original(self, seed, drop_last=drop_last):
            seen.extend(batch.index.tolist())
            yield batch

    monkeypatch.setattr(StreamSource, "epoch", watched)
    streamed = experiment(training={"epochs": 1, "loader": "stream"}, epg_samples=0)
    record = streamed.run().record
    assert sorted(seen) == list(range(len(streamed.dataset.split("train"))))
    assert record.training["loader"] == "stream"
    assert record.id != experiment(training={"epochs": 1}, epg_samples=0).id


def test_a_stream_refuses_phases_that_choose_samples(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = experiment(training={"epochs": 1, "loader": "stream"}, epg_samples=0)
    phase = Phase(subset=np.array([0, 1, 2]))
    monkeypatch.setattr(type(streamed.method), "phases", lambda self, run: iter([phase]))
    with pytest.raises(ConfigError, match="--loader indexed"):
        streamed.run()
