"""Methods down, datasets across, of the runs that were made with the methods' defaults."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimbench.cli.results import app
from aimbench.results.store import Store
from aimbench.results.tables import make_tables
from aimbench.train.config import TrainConfig
from aimbench.train.registry import get_method

README = Path(__file__).parents[2] / "methods" / "aim" / "README.md"
BLOCK = re.compile(r"<!-- Made by: (.*?) -->\n(.*?)\n<!-- end -->", re.DOTALL)
"""A command that AIM's README names, and what it printed."""


def defaults(name):
    method = get_method(name)
    return method(method.configure({})).defining(), TrainConfig(**method.training_defaults).defining()


@pytest.fixture
def store(tmp_path, make_record, make_metrics):
    store = Store(tmp_path)

    def write(name, accuracy, wga, training=(), **other):
        config, usual = defaults(name)
        metrics = {"test": make_metrics(accuracy=accuracy, wga=wga, gradcam=0.4)}
        store.write(
            make_record(method=name, config=config, training={**usual, **dict(training)}, metrics=metrics, **other)
        )

    species = {"groups": ["a", "b", "c"], "num_classes": 3}
    for seed, wga in enumerate((0.5, 0.6, 0.7)):
        write("erm", 0.8, wga, seed=seed)
    write("aim", 0.9, 0.75)
    write("aim", 0.99, 0.99, training={"lr": 0.5})  # not what it has by default
    write("erm", 0.3, 0.0, dataset="cub", variant="official", evaluation=species)
    store.write(make_record(method="from_elsewhere"))
    return store


def overview(store, *words):
    result = CliRunner().invoke(app, ["overview", "--results", str(store.root), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_headline_is_the_worst_group_or_accuracy_where_groups_are_classes(store):
    lines = overview(store).splitlines()
    assert lines[0] == "| Method | Regime | cub@official, Accuracy | waterbirds@95, WGA |"
    assert lines[2] == "| aim | train=class, select=class | - | 75.0 (1) |"
    assert lines[3] == "| erm | train=class, select=class | 30.0 (1) | 60.0 ± 10.0 (3) |"
    assert lines[4] == ""  # neither another rate nor a method that is not here


def test_a_method_of_two_regimes_has_a_line_for_each(store, make_record, make_metrics):
    """Where trials were chosen by validation groups the regime says so, on that dataset alone."""
    config, training = defaults("aim")
    store.write(
        make_record(
            method="aim",
            config=config,
            training=training,
            dataset="cub",
            variant="official",
            evaluation={"groups": ["a", "b", "c"], "num_classes": 3},
            regime={"train": "class", "select": "val_groups"},
            metrics={"test": make_metrics(accuracy=0.4)},
        )
    )
    assert overview(store).splitlines()[2:5] == [
        "| aim | train=class, select=class | - | 75.0 (1) |",
        "| erm | train=class, select=class | 30.0 (1) | 60.0 ± 10.0 (3) |",
        "| aim | train=class, select=val_groups | 40.0 (1) | - |",
    ]


def test_what_columns_do_not_share_stands_in_their_titles(store, make_record):
    assert "- All columns: kind official, backbone resnet50, weights timm, selector val_accuracy, " in overview(store)
    config, training = defaults("erm")
    store.write(make_record(config=config, training=training, kind="mini"))
    text = overview(store, "--method", "erm")
    assert "| cub@official, official, Accuracy | waterbirds@95, mini, WGA | waterbirds@95, official, WGA |" in text
    assert "- All columns: backbone resnet50, " in text
    store.write(make_record(config=config, training=training, kind="mini", fingerprint="e" * 64))
    tables = {table.fingerprint[0]: table.id for table in make_tables(store.find()) if table.kind == "mini"}
    header = overview(store, "--method", "erm").splitlines()[0]
    assert header.count("waterbirds@95, mini, WGA (table-") == 2
    assert all(table in header for table in (tables["e"], tables["f"]))


def test_one_metric_of_some_methods(store):
    rows = list(
        csv.DictReader(io.StringIO(overview(store, "--metric", "epg_gradcam", "--method", "aim", "--format", "csv")))
    )
    assert [(row["method"], row["dataset"], float(row["value"])) for row in rows] == [("aim", "waterbirds", 0.4)]
    found = json.loads(overview(store, "--metric", "accuracy", "--format", "json"))
    assert [(one["method"], one["dataset"], one["n"]) for one in found] == [
        ("erm", "cub", 1),
        ("aim", "waterbirds", 1),
        ("erm", "waterbirds", 3),
    ]
    worst = json.loads(overview(store, "--metric", "worst_group_accuracy", "--format", "json"))[-1]
    assert (worst["value"], worst["std"]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert r"\begin{tabular}" in overview(store, "--format", "latex")


def test_an_unknown_metric_is_named(store):
    result = CliRunner().invoke(app, ["overview", "--results", str(store.root), "--metric", "acuracy"])
    assert result.exit_code != 0
    assert "'acuracy': did you mean 'accuracy'" in str(result.exception)


def test_the_tables_in_aims_readme_are_what_their_commands_print():
    text = README.read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    assert len(found) == text.count("<!-- Made by:") > 0
    for command, block in found:
        words = command.split()
        assert words[:2] == ["aimbench", "results"]
        results = str(README.parents[2] / "results")
        printed = CliRunner().invoke(app, [*words[2:], "--results", results]).stdout.strip()
        assert block == printed, f"put the output of '{command}' into {README}"


@pytest.mark.parametrize("samples", [1, 99])
def test_of_a_methods_rows_the_one_with_most_seeds_is_shown(store, make_record, make_metrics, samples):
    config, training = defaults("aim")
    for seed in (5, 6):  # in a table such a row stands before or behind the other
        store.write(
            make_record(
                method="aim",
                config=config,
                training=training,
                seed=seed,
                metrics={"test": make_metrics(accuracy=0.9, wga=0.2)},
                evaluation={"epg_samples": samples},
            )
        )
    assert "| aim | train=class, select=class | - | 20.0 ± 0.0 (2) |" in overview(store)
