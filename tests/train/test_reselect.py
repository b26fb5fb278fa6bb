"""Reselecting a run gives the record that the run would have had under the other selector."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.errors import RecordError
from aimbench.record import Probe, SearchInfo
from aimbench.results.reselect import reselect, selectors_of
from aimbench.results.store import Store
from aimbench.results.validate import check_record


def stored(store: Store, experiment: Any) -> Any:
    result = experiment.run()
    return store.read(store.write_run(result.record, result.files))


def test_reselecting_equals_running_with_the_selector(experiment: Callable[..., Any], tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    training = {"epochs": 3, "lr": 0.05}
    first = stored(store, experiment(selector="last", training=training))
    probed = first.model_copy(update={"probes": {"accuracy": Probe(value=0.5, low=0.4, high=0.6, n=8)}})
    store.write(probed, replace=True)
    assert reselect(store, probed, "last", select_regime="class")[0].probes == probed.probes
    assert selectors_of(store, first) == first.selectors
    # Settings that trials chose by the worst group have read groups, whatever chooses the epoch.
    for metric, read in (("worst_group_accuracy", "val_groups"), ("accuracy", "class")):
        search = SearchInfo(plan="plan", kind="grid", trials=2, finished=2, trial="erm-0", score=0.5, metric=metric)
        searched = first.model_copy(update={"search": search})
        assert reselect(store, searched, "last", select_regime="class")[0].method.regime["select"] == read
    name = next(n for n, s in first.selectors.items() if s.epoch != 2 and not s.oracle)
    expected = stored(Store(tmp_path / "other"), experiment(selector=name, training=training, epg_samples=8))
    with pytest.raises(RecordError, match="reads the test set and can never be a headline"):
        reselect(store, first, "oracle_test_worst_group_accuracy", select_regime="class")
    with pytest.raises(RecordError, match=r"unknown selector 'lasst'.*'last'"):
        reselect(store, first, "lasst", select_regime="class")
    done = CliRunner().invoke(
        app, ["results", "reselect", first.id, "--selector", name, "--results", str(store.root)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    new = store.get(expected.id)  # the id is that of the run
    for split, metrics in new.metrics.items():
        assert metrics == expected.metrics[split].model_copy(update=dict(_unknown_at_other_epochs(metrics)))
    assert new.metrics["test"].epg == {}
    assert new.probes == {}  # those of the other epoch's model
    assert new.selected == expected.selected
    assert check_record(store, store.records / "waterbirds" / f"{new.id}.json") == []
    shown = CliRunner().invoke(app, ["results", "reselect", first.id, "--results", str(store.root)])
    assert "the record's" in shown.output
    with pytest.raises(RecordError, match="did you mean 'last'"):
        reselect(store, first, "lats", select_regime="class")


def _unknown_at_other_epochs(metrics: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(metrics, name)) for name in ("epg", "epg_region", "epg_samples", "heads", "mask_health")]
