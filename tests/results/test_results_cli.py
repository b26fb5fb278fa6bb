import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimbench.cli import app as whole
from aimbench.cli.defaults import settings_of
from aimbench.cli.results import app
from aimbench.errors import ConfigError, RecordError
from aimbench.results.store import Store
from aimbench.results.summary import drops, headline_text, summary

CARDS = Path(__file__).parents[2] / "docs" / "cards"
PUBLISHED = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture
def root(tmp_path, make_record, monkeypatch):
    store = Store(tmp_path / "results")
    for record in [
        make_record(seed=0),
        make_record(seed=1),
        make_record(method="aim"),
        make_record(variant="100"),
        make_record(kind="mini", variant="mini"),
    ]:
        store.write(record)
    (store.root / "reference").symlink_to(PUBLISHED)
    monkeypatch.setenv("AIMBENCH_RESULTS", str(store.root))
    return store.root


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_table_is_markdown_in_a_pipe_one_for_each_comparable_set(root):
    text = run("table")
    assert text.count("| Method |") == 3
    assert text.index("waterbirds@100") < text.index("waterbirds@95") < text.index("waterbirds@mini")


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (["--dataset", "waterbirds@95"], [("95", "aim"), ("95", "erm")]),
        (["--dataset", "waterbirds", "--variant", "100"], [("100", "erm")]),
        (["--method", "aim"], [("95", "aim")]),
        (["--dataset", "waterbirds@95", "--method", "erm", "--method", "aim"], [("95", "aim"), ("95", "erm")]),
        (["--kind", "mini"], [("mini", "erm")]),
        (["--backbone", "resnet50", "--selector", "val_accuracy", "--kind", "official", "--method", "erm"],
         [("100", "erm"), ("95", "erm")]),
    ],
)  # fmt: skip
def test_table_filters(root, filters, rows):
    tables = json.loads(run("table", "--format", "json", *filters))["tables"]
    assert [(table["variant"], row["method"]) for table in tables for row in table["rows"]] == rows


def test_an_empty_registry_says_so_and_is_no_error(tmp_path):
    result = CliRunner().invoke(app, ["table", "--method", "jtt", "--results", str(tmp_path)])
    assert result.exit_code == 0
    assert "no records in" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [["table"], ["evidence"], ["overview"], ["ablation", "aim"], ["build"], ["show", "aim-0123"], ["validate"],
     ["site"], ["cite", "aim-0123"], ["export"], ["compare", "aim-0123", "erm-0123"], ["reselect", "aim-0123"]],
)  # fmt: skip
def test_a_registry_that_is_named_and_is_not_there_is_an_error(tmp_path, words):
    with pytest.raises(RecordError, match="none is no folder; name one that holds records/"):
        CliRunner().invoke(whole, ["results", *words, "--results", str(tmp_path / "none")], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "--method", "ermm"], "with --method ermm match; did you mean 'erm'"),
        (["table", "--method", "erm", "--method", "amm"], "with --method amm match; did you mean 'aim'"),
        (["table", "--dataset", "waterbird@95"], "with --dataset waterbird@95 match; did you mean 'waterbirds'"),
        (["table", "--id", "table-ffff"], "with --id table-ffff match"),
        (["overview", "--method", "ermm"], "did you mean 'erm'"),
        (["evidence", "--dataset", "waterbird"], "did you mean 'waterbirds'"),
    ],
)
def test_a_filter_that_leaves_nothing_is_an_error_with_the_nearest_name(root, words, message):
    with pytest.raises(RecordError, match=message):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_method_alone_keeps_the_marks_of_its_whole_table(root, make_record, make_metrics):
    for method, accuracy in (("jtt", 0.6), ("scda", 0.95)):
        Store(root).write(
            make_record(method=method, metrics={"test": make_metrics(accuracy=accuracy, wga=accuracy / 2)})
        )
    whole, alone = (
        run("table", "--dataset", "waterbirds@95"),
        run("table", "--dataset", "waterbirds@95", "--method", "jtt"),
    )
    (of_whole,) = [line.split("|")[2:] for line in whole.splitlines() if line.startswith("| jtt")]
    (of_alone,) = [line.split("|")[2:] for line in alone.splitlines() if line.startswith("| jtt")]
    assert of_alone == of_whole
    assert "**" not in "".join(of_alone)
    assert "Rows of --method jtt alone" in alone
    assert all(line.startswith("| jtt") for line in alone.splitlines()[4:] if line.startswith("| "))


def test_table_reads_the_folder_that_the_option_names(root, tmp_path):
    (tmp_path / "other").mkdir()
    result = CliRunner().invoke(app, ["table", "--results", str(tmp_path / "other")])
    assert str(tmp_path / "other" / "records") in result.stderr


def test_published_numbers_stand_beneath_ours(root):
    text = run("table", "--dataset", "waterbirds@100", "--reference")
    assert text.index("| erm (1)") < text.index("Published numbers") < text.index("AIM[2,25%]")
    assert "Published" not in run("table", "--dataset", "waterbirds@100")


def test_out_writes_the_file_and_names_a_place_that_cannot_be_written(root, tmp_path):
    out = tmp_path / "new" / "table.tex"
    assert run("table", "--format", "latex", "--out", str(out)) == ""
    assert r"\toprule" in out.read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="can't be written"):
        run("table", "--out", str(tmp_path / "file" / "table.md"))


def test_two_variants_contradict_each_other(root):
    with pytest.raises(ConfigError, match="contradict"):
        run("table", "--dataset", "waterbirds@95", "--variant", "100")


def test_a_terminal_gets_a_drawn_table(root, monkeypatch, capsys):
    from aimbench.cli import results

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    results.table(dataset="waterbirds@95", reference=True)
    text = capsys.readouterr().out
    assert "| Method |" not in text
    assert "aim (1)" in text
    assert "80.0 ± 0.0" in text
    assert "GroupDRO" in text


def test_show_finds_a_record_by_the_beginning_of_its_id(root, make_record):
    aim = make_record(method="aim")
    text = run("show", aim.id[:7])
    assert aim.id in text
    assert "80.0 [75.0, 85.0]" in text
    assert text.splitlines()[-1] == "again     not by this version: revision abc had no noise_until"
    last = run("show", make_record(method="erm").id).splitlines()[-1]
    assert last.startswith("again     aimbench run --method erm --dataset ")
    assert last.endswith(" --results again")
    planned = make_record(method="erm", training={"train": "head", "warmup_epochs": 2.0})
    Store(root).write(planned)
    assert "by a plan, whose training gives warmup_epochs" in run("show", planned.id).splitlines()[-1]
    assert json.loads(run("show", aim.id, "--json"))["id"] == aim.id


def test_show_tells_epg_by_outcome_and_group_and_what_each_selector_would_have_reported(sound_run_with_epochs):
    record, _ = sound_run_with_epochs
    metrics = {"test": record.metrics["test"].model_copy(update={"epg_region": "boxes"})}
    lines = summary(record.model_copy(update={"metrics": metrics}))
    assert "test (8 samples), percent [95 % interval]; EPG by boxes" in lines
    (place,) = [i for i, line in enumerate(lines) if "EPG gradcam" in line]
    assert lines[place].endswith("4 samples, 0 undefined, 40.0 where right, 80.0 where wrong")
    assert lines[place + 1] == "    landbird on land 30.0, landbird on water 70.0"
    said = {
        line.split()[0]: line for line in lines[lines.index("what each selector would have reported on test") + 1 :]
    }
    figures = "train epoch 2: accuracy 62.5, class balanced accuracy 62.5, worst group accuracy 0.0"
    assert figures in said["val_accuracy"]
    assert said["val_worst_group_accuracy"].endswith("reads groups")
    assert said["oracle_test_worst_group_accuracy"].endswith("reads the test set: no result")


def test_show_names_the_nearest_for_an_unknown_id(root):
    with pytest.raises(RecordError, match=r"did you mean|known"):
        run("show", "aim-ffffffffffff")


def test_drops_from_further_conditions_to_the_test_split(make_record, make_metrics):
    conditions = {"test": 0.4, "test_training_places": 0.9, "test_black": 0.65, "val": 0.95}
    record = make_record(metrics={name: make_metrics(accuracy) for name, accuracy in conditions.items()})
    assert drops(record) == [
        "from training places 90.0% to test 40.0%: 50.0 points",
        "from black 65.0% to test 40.0%: 25.0 points",
    ]
    assert "drop from training places" in headline_text(record)
    assert "drop" not in headline_text(make_record())


def test_validate_passes_sound_records_and_fails_on_an_edited_number(tmp_path, sound_run):
    store = Store(tmp_path)
    path = store.write(*sound_run)
    assert "1 records" in run("validate", "--results", str(tmp_path))
    content = json.loads(path.read_text())
    content["metrics"]["test"]["worst_group_accuracy"]["value"] = 0.75
    path.write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["validate", "--results", str(tmp_path)])
    assert result.exit_code == 1
    assert "worst_group_accuracy.value: the record says 0.75" in result.stderr
    assert "1 of 1 records" in result.stderr


def test_validate_says_how_far_it_is(tmp_path, sound_run, monkeypatch):
    monkeypatch.setattr("aimbench.spoken_progress.EVERY", 0.0)
    Store(tmp_path).write(*sound_run)
    result = CliRunner().invoke(app, ["validate", "--results", str(tmp_path)])
    assert result.stderr == "records checked: 1 of 1\n"


def test_validate_of_one_variant_leaves_the_others_out(root, sound_run):
    Store(root).write(*sound_run, replace=True)
    result = CliRunner().invoke(app, ["validate", "--dataset", "waterbirds@100"])
    assert "1 of 1 records" in result.stderr


def test_the_command_line_module_imports_nothing_heavy():
    code = (
        "import sys, aimbench.cli.results, aimbench.cli.listing; "
        "print(sorted({'torch', 'pandas', 'pyarrow', 'timm', 'webdataset', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def draw(root, monkeypatch, capsys):
    """Draws the table of a dataset in a terminal of a width; returns its text without styles."""
    from aimbench.cli import results

    def call(width):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
        results.table(dataset="waterbirds@95")
        return re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)

    return call


def test_a_narrow_terminal_gets_the_usual_numbers_and_is_told_what_it_lacks(draw):
    text = draw(46)
    header = next(line for line in text.splitlines() if "Method" in line)
    assert header.split() == ["Method", "n", "Accuracy", "WGA"]  # what stands between them has less to say
    (line,) = (line for line in text.splitlines() if line.strip().startswith("erm (2)"))
    assert line.split()[2:] == ["2", "80.0", "±", "0.0", "50.0", "±", "0.0"]
    left_out = text[text.index("Left out") :]
    assert "accuracy_reweighted" in left_out
    assert "cost" in left_out
    assert "95 % interval of a single run" not in text  # none is drawn
    assert "train=class, select=class" in left_out  # what tells the rows apart stands beneath


@pytest.mark.parametrize("width", range(40, 60))
def test_no_cell_is_broken_over_lines(draw, width):
    text = draw(width)
    rows = text[text.index("───") :].splitlines()[1:3]
    assert [row.split()[:2] for row in rows] == [["aim", "(1)"], ["erm", "(2)"]]


def test_columns_are_chosen_by_key(root):
    text = run("table", "--dataset", "waterbirds@95", "--columns", "worst_group_accuracy,accuracy")
    assert "| Method | Regime | n | WGA | Accuracy |" in text
    assert "Cost:" not in text
    assert "GMACs" in run("table", "--dataset", "waterbirds@95", "--columns", "accuracy,cost")
    header = run("table", "--columns", "accuracy", "--format", "csv").splitlines()[0]
    assert "wall_seconds" not in header
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        run("table", "--columns", "acuracy")
    with pytest.raises(ConfigError, match="name one at least"):
        run("table", "--columns", ",")


def test_rows_at_default_settings_need_no_configuration(root, make_record):
    defaults = settings_of("erm", {})
    for lr, seed in ((defaults.training["lr"], 7), (0.5, 7), (0.5, 8)):
        Store(root).write(
            make_record(training={**defaults.training, "lr": lr}, config=dict(defaults.config), seed=seed)
        )
    whole = run("table", "--dataset", "waterbirds@95")
    assert "Settings" in whole
    shown = run("table", "--dataset", "waterbirds@95", "--defaults")
    (row,) = (line for line in shown.splitlines() if line.startswith("| erm"))
    assert row.split(" | ")[2] == "1"  # the one run with the default rate, not those of another
    assert "Settings" not in shown
    assert "Rows of --defaults alone" in shown


def test_latex_has_a_caption_of_one_line_and_its_notes_beneath(root):
    text = run("table", "--dataset", "waterbirds@95", "--format", "latex")
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert "sample standard deviation" not in caption
    assert text.index(r"\bottomrule") < text.index("sample standard deviation") < text.index(r"\end{table}")


def test_an_overview_of_one_dataset(root):
    with pytest.raises(RecordError, match="--dataset waterbrids"):
        run("overview", "--dataset", "waterbrids")


def test_an_overview_of_other_settings_alone_says_where_those_are(root, make_record):
    Store(root).write(make_record(dataset="shown", method="aim", config={"stop_stage": 2}))
    with pytest.raises(RecordError, match="--method aim are of a method's default settings; 'aimbench results table'"):
        run("overview", "--dataset", "shown", "--method", "aim")
    with pytest.raises(RecordError, match="--method erm match; 'aimbench run' makes one"):
        run("overview", "--dataset", "shown", "--method", "erm")


def test_an_overview_of_runs_that_train_more_than_the_head(root, make_record, make_metrics):
    from aimbench.cli.defaults import settings_of

    config, training, _ = settings_of("erm", {})
    for train, accuracy in (("head", 0.9), ("last", 0.6), ("all", 0.5)):
        Store(root).write(
            make_record(
                dataset="shown",
                config=dict(config),
                training={**training, "train": train},
                metrics={"test": make_metrics(accuracy=accuracy, wga=accuracy / 2)},
            )
        )
    pages = {words: run("overview", "--dataset", "shown@95", *words) for words in ((), ("--train", "last"))}
    assert "45.0" in pages[()]
    assert "Default settings but" not in pages[()]
    assert "30.0" in pages["--train", "last"]
    assert "- Default settings but for --train last." in pages["--train", "last"]


def test_evidence_of_the_default_settings_of_one_method(root, make_record, make_metrics):
    for method, changes, wga in (("erm", {}, 0.5), ("aim", {}, 0.7), ("aim", {"active_area": 0.5}, 0.6)):
        config, training, _ = settings_of(method, changes)
        for seed in (0, 1):
            Store(root).write(
                make_record(
                    dataset="shown",
                    method=method,
                    config=dict(config),
                    training=dict(training),
                    seed=seed,
                    metrics={"test": make_metrics(accuracy=0.8, wga=wga)},
                )
            )

    def rows(*words: str) -> list[tuple[str, float, float]]:
        found = json.loads(run("evidence", "--dataset", "shown@95", "--format", "json", *words))
        of_wga = [row for row in found if row["metric"] == "worst_group_accuracy"]
        return [(row["method"], row["value"], row["difference_value"]) for row in of_wga]

    aim = ("aim", 0.7, pytest.approx(0.2))
    assert sorted(value for _, value, _ in rows()) == [0.5, 0.6, 0.7]
    assert sorted(rows("--defaults")) == [aim, ("erm", 0.5, None)]
    assert rows("--defaults", "--method", "aim") == [aim], "ERM is not shown, and is still what AIM is compared with"
    with pytest.raises(RecordError, match="--method amm"):
        run("evidence", "--dataset", "shown@95", "--method", "amm")


def test_again_names_the_cards_of_an_own_dataset(root, make_record, tmp_path, monkeypatch):
    own = make_record(dataset="shores")
    Store(root).write(own)
    assert run("show", own.id).splitlines()[-1].endswith(" --cards FOLDER_OF_CARDS --results again")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CARDS / "streetbirds", "my cards/shores")
    assert " --cards 'my cards' --results" in run("show", own.id, "--cards", "my cards").splitlines()[-1]
    ours = make_record(method="erm")
    assert "--cards" not in run("show", ours.id).splitlines()[-1]
