"""One setting at a time: which rows count as a change of the base, and by how much they differ."""

import csv
import io
import json
import shutil

import pytest
from typer.testing import CliRunner

from aimbench.cli.defaults import settings_of
from aimbench.cli.results import app
from aimbench.errors import RecordError
from aimbench.record import without_later
from aimbench.results.store import Store


@pytest.fixture
def store(tmp_path, make_record, make_metrics):
    store = Store(tmp_path)

    def write(wga, seed=0, training=(), evaluation=None, method="aim", **changes):
        settings = settings_of(method, changes)
        store.write(
            make_record(
                method=method,
                config=without_later(settings.config, settings.earlier),
                training={**settings.training, **dict(training)},
                metrics={"test": make_metrics(accuracy=0.9, wga=wga, gradcam=0.4)},
                evaluation=evaluation,
                seed=seed,
            )
        )

    for seed, (base, other) in enumerate([(0.5, 0.6), (0.6, 0.8), (0.7, 1.0)]):
        write(base, seed)
        write(other, seed, active_area=0.4)
    write(0.4, 1, smooth_start="random")  # records lack this setting: it is what AIM had before there was a choice
    write(0.3, 5, anneal=False)  # a seed that the base lacks
    write(0.1, active_area=0.4, anneal=False)  # two settings
    write(0.1, training={"lr": 0.5}, pool="all")  # another rate
    for seed in range(4):
        write(0.1, seed, training={"lr": 0.5})  # the base's settings at another rate, with more seeds than the base
    write(0.1, evaluation={"epg_samples": 7}, pool="all")  # another evaluation
    write(0.1, method="aim_plus", pool="all")
    store.write(make_record(method="aim", config={"area": 0.25}, training=settings_of("aim", {}).training))  # of old
    return store


def ablation(store, *words):
    result = CliRunner().invoke(app, ["ablation", "aim", "--results", str(store.root), *words])
    if result.exception:
        raise result.exception
    return result


def test_each_line_is_one_change_and_its_difference_over_common_seeds(store):
    lines = [line for line in ablation(store).stdout.splitlines() if line.startswith("|")]
    # By hand: gains 0.1, 0.2 and 0.3; Student's t of 2 degrees is 4.303, so 20 points plus or minus 24.8.
    assert lines == [
        "| Change | n | WGA | Difference | Accuracy | EPG gradcam |",
        "| --- | --- | --- | --- | --- | --- |",
        "| - | 3 | 60.0 ± 10.0 | - | 90.0 ± 0.0 | 40.0 ± 0.0 |",
        "| active_area=0.4 | 3 | 80.0 ± 20.0 | +20.0 [-4.8, +44.8] | 90.0 ± 0.0 | 40.0 ± 0.0 |",
        "| anneal=false | 1 | 30.0 | - | 90.0 | 40.0 |",
        "| smooth_start=random | 1 | 40.0 | -20.0 | 90.0 | 40.0 |",
    ]


def test_the_base_may_be_another_than_the_defaults(store):
    rows = json.loads(ablation(store, "--set", "active_area=0.4", "--format", "json").stdout)
    area = settings_of("aim", {}).config["active_area"]
    assert [(row["change"], row["n"]) for row in rows] == [("", 3), (f"active_area={area}", 3), ("anneal=false", 1)]
    assert [row["difference_value"] for row in rows] == [None, pytest.approx(-0.2), pytest.approx(-0.5)]


def test_other_formats_hold_the_same_lines(store):
    rows = list(csv.DictReader(io.StringIO(ablation(store, "--format", "csv").stdout)))
    assert [row["change"] for row in rows] == ["", "active_area=0.4", "anneal=false", "smooth_start=random"]
    assert float(rows[1]["difference_low"]) == pytest.approx(-0.048, abs=1e-3)
    latex = ablation(store, "--format", "latex").stdout
    assert latex.count(r"\toprule") == 1
    assert r"smooth\_start=random" in latex


def test_without_a_base_or_a_change_it_says_what_would_make_one(store):
    with pytest.raises(RecordError, match=r"with method aim --set pool=all differ.*; .*a plan with lists of settings"):
        ablation(store, "--set", "pool=all")
    with pytest.raises(RecordError, match=r"--dataset wterbirds differ.*; did you mean 'waterbirds'"):
        ablation(store, "--dataset", "wterbirds")
    shutil.rmtree(store.records)
    assert "a plan with lists of settings" in ablation(store).stderr


@pytest.mark.parametrize("samples", [1, 99])
def test_the_base_with_most_seeds_is_meant(store, make_record, make_metrics, samples):
    settings = settings_of("aim", {})
    store.write(
        make_record(
            method="aim",
            config=without_later(settings.config, settings.earlier),
            training=settings.training,
            seed=0,
            metrics={"test": make_metrics(accuracy=0.9, wga=0.1)},
            evaluation={"epg_samples": samples},
        )
    )
    assert "| - | 3 | 60.0 ± 10.0 |" in ablation(store).stdout
