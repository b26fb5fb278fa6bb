import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from aimbench.cli.defaults import settings_of
from aimbench.cli.listing import app
from aimbench.cli.reproduction import print_reproduction
from aimbench.errors import ConfigError
from aimbench.train.registry import MethodEntry, later_settings, list_methods, method_card

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def run(*words: str) -> list[list[str]]:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return [line.split("\t") for line in result.output.splitlines()]


def test_methods_are_listed_with_the_labels_that_they_use(monkeypatch):
    entry = SimpleNamespace(
        name="mine", regime={"train": "groups", "select": "none"}, source="A paper", summary="Looks [here]."
    )
    monkeypatch.setattr("aimbench.train.registry.list_methods", lambda: [entry])
    header, line = run("methods")
    assert header == ["method", "labels used", "undefined on", "summary", "source"]
    assert line == ["mine", "train=groups, select=none", "", "Looks [here].", "A paper"]


@pytest.mark.parametrize(
    ("need", "undefined"),
    [
        ("all_groups_in_train", "waterbirds@100"),
        ("shared_places", "cub, hardimagenet, imagenet100, imagewoof, travelingbirds, waterbirds@100"),
    ],
)
def test_methods_are_listed_with_the_datasets_that_lack_what_they_need(monkeypatch, need, undefined):
    card = method_card("erm").model_copy(update={"needs": [need]})
    monkeypatch.setattr("aimbench.train.registry.method_card", lambda name: card)
    assert {line[2] for line in run("methods")[1:]} == {undefined}


def test_a_card_that_is_not_whole_yet_is_named_and_the_others_are_listed(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text("title: Mine\nlater: {width: 3}\n")
    entry = MethodEntry("mine", "aimbench.baselines.erm", "A paper", "Mine.", {"train": "class"})
    monkeypatch.setattr(MethodEntry, "card_file", property(lambda self: tmp_path / f"{self.name}.yaml"))
    monkeypatch.setattr("aimbench.train.registry._index", lambda: {"mine": entry})
    result = CliRunner().invoke(app, ["methods"], catch_exceptions=False)
    assert result.stdout.splitlines()[1].startswith("mine\ttrain=class")
    assert "field 'authors' is missing (add it); field 'venue'" in result.stderr  # all at once
    assert later_settings("mine") == {"width": 3}  # tables need no more of it


def test_a_methods_card_is_shown_with_its_settings():
    lines = run("methods", "erm")
    assert ["frozen features: A linear layer on the pooled features, standardised per channel."] in lines
    assert ["batch_size", "128", "group_DRO repository (Sagawa et al. 2020), Waterbirds"] in lines


def test_a_method_without_a_card_says_so(monkeypatch):
    monkeypatch.setattr("aimbench.train.registry.method_card", lambda name: None)
    assert run("methods", "erm")[-1][0].startswith("card: none; docs/adding-a-method.md says how to write erm.yaml")


@pytest.mark.parametrize("name", [entry.name for entry in list_methods()])
def test_every_method_shows_a_whole_reproduction_card(name, monkeypatch, tmp_path):
    monkeypatch.setenv("AIMBENCH_RESULTS", str(tmp_path))  # without records: what is missing is said
    shown = {line[0].partition(":")[0] for line in run("methods", name)}
    assert {"source", "labels used", "paper", "equation", "labels", "frozen features", "deviation", "ours"} <= shown
    assert shown & {"official setting (Waterbirds)", "official settings"}
    assert shown & {"published", "published numbers"}


def test_published_numbers_stand_beside_those_of_our_records(monkeypatch):
    monkeypatch.setenv("AIMBENCH_RESULTS", str(RESULTS))
    lines = run("methods", "erm")
    assert ["ERM", "waterbirds@100", "resnet50", "worst_group_accuracy", "38.4", "-", "-"] in [x[:7] for x in lines]
    of_run = {}
    for path in (RESULTS / "records" / "waterbirds").glob("erm-*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        shared = [record[name] for name in ("dataset", "method", "backbone", "training", "evaluation", "selector")]
        values = of_run.setdefault(json.dumps(shared, sort_keys=True), [])
        values.append(100 * record["metrics"]["test"]["accuracy"]["value"])
    shown = {line[5] for line in lines if line[0].startswith("waterbirds@")}
    defaults = settings_of("erm", {}).training
    several = [values for key, values in of_run.items() if json.loads(key)[3] == defaults and len(values) > 1]
    assert several
    assert any("runs with other settings" in line[0] for line in lines)
    assert {f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" for values in several} <= shown


def test_a_single_run_of_other_settings_is_one_run(monkeypatch, capsys):
    monkeypatch.setattr("aimbench.cli.reproduction.find_digests", lambda *asked: [None])
    monkeypatch.setattr("aimbench.cli.reproduction.at_defaults", lambda runs: [])
    print_reproduction("erm", method_card("erm"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("and 1 run with other settings: ")


def test_datasets_are_listed_from_their_cards(monkeypatch):
    card = SimpleNamespace(
        name="birds",
        title="Birds",
        variants={"mini": None, "95": None},
        ground_truth=SimpleNamespace(kind="mask"),
        licence="research\nonly",
    )
    monkeypatch.setattr("aimbench.cards.list_cards", lambda cards_dir: ["birds"])
    monkeypatch.setattr("aimbench.cards.load_card", lambda name, cards_dir: {"birds": card}[name])
    assert run("datasets")[1:] == [["birds", "95, mini", "mask", "research only", "Birds"]]


def test_further_cards_are_listed_beside_ours():
    names = [line[0] for line in run("datasets", "--cards", str(ROOT / "docs" / "cards"))[1:]]
    assert {"streetbirds", "waterbirds"} <= set(names)
    assert "streetbirds" not in [line[0] for line in run("datasets")[1:]]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_tiny", "resnet50"])
def test_backbones_are_listed_with_their_size(name):
    lines = {line[0]: line for line in run("backbones")}
    assert lines[name][2].endswith(" M")


def test_methods_that_come_with_aimbench_are_listed():
    assert {"erm", "aim"} <= {line[0] for line in run("methods")}


def test_a_method_is_listed_with_its_settings_and_presets():
    lines = {line[0]: line[1:] for line in run("methods", "aim")}
    assert lines["labels used: train=class, select=class"] == []
    kind, default, meaning = lines["active_area"]
    assert (kind, default) == ("float, > 0, <= 1", "0.15")
    assert "0.25 or 0.35" in meaning
    assert lines["loss_on"][:2] == ["masked | fused", "masked"]
    assert lines["final_temperature"][:2] == ["float | None, > 0", "None"]
    assert "stop_stage=1 active_area=0.25 anneal=False" in lines["1-25-flat"][0]


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown method 'amm': did you mean 'aim'"):
        run("methods", "amm")
