import csv
import io
import json
import re

import pytest

from aimbench.errors import ConfigError
from aimbench.record import Cost, Interval, SelectorScore
from aimbench.results.digest import digest
from aimbench.results.notes import OF_CONFIG
from aimbench.results.render import grid, render, render_all, title
from aimbench.results.tables import RowCost, make_tables, rows_of, with_columns


def test_seeds_become_one_row_with_mean_and_sample_standard_deviation(make_record, make_metrics):
    records = [
        make_record(seed=seed, metrics={"test": make_metrics(accuracy=accuracy, wga=wga, gradcam=0.4)})
        for seed, accuracy, wga in [(0, 0.70, 0.50), (1, 0.80, 0.52), (2, 0.90, 0.48)]
    ]
    (table,) = make_tables(reversed(records))
    (row,) = table.rows
    accuracy = row.cells["accuracy"]
    # By hand: the deviations from 0.8 are -0.1, 0, 0.1, so the variance is 0.02 / 2.
    assert accuracy.value == pytest.approx(0.8)
    assert accuracy.std == pytest.approx(0.1)
    assert accuracy.n == 3
    # Each run's own interval reaches 0.05 to either side; Student's t of 2 degrees is 4.303 (printed tables).
    half = (0.05**2 + (4.303 * 0.1 / 3**0.5) ** 2) ** 0.5
    assert (accuracy.low, accuracy.high) == (pytest.approx(0.8 - half, abs=1e-4), 1.0)
    assert row.cells["worst_group_accuracy"].std == pytest.approx(0.02)
    assert row.cells["epg_gradcam"].std == pytest.approx(0)
    assert row.seeds == (0, 1, 2)
    assert row.records == tuple(record.id for record in records)


def test_the_interval_over_seeds_takes_the_mean_reach_of_the_runs_on_either_side(make_record, make_metrics):
    records = [
        make_record(
            seed=seed,
            metrics={
                "test": make_metrics().model_copy(update={"accuracy": Interval(value=0.8, low=0.8 - below, high=high)})
            },
        )
        for seed, below, high in [(0, 0.1, 0.85), (1, 0.2, 0.95)]
    ]
    (table,) = make_tables(records)
    cell = table.rows[0].cells["accuracy"]
    # Both seeds say 0.8, so they add nothing: 0.15 below and 0.1 above are left.
    assert (cell.low, cell.high) == (pytest.approx(0.65), pytest.approx(0.9))


def test_a_single_run_shows_its_own_interval(make_record):
    (table,) = make_tables([make_record()])
    cell = table.rows[0].cells["accuracy"]
    assert (cell.value, cell.std, cell.low, cell.high) == (0.8, None, 0.75, pytest.approx(0.85))
    assert "80.0 [75.0, 85.0]" in render(table, "md")
    assert any("95 % interval of a single run" in note for note in table.notes)
    assert not any("standard deviation" in note for note in table.notes)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "mini"},
        {"kind": "partial"},
        {"fingerprint": "0" * 64},
        {"variant": "100"},
        {"dataset": "cub"},
        {"backbone": "resnet18"},
        {"weights_hash": "0" * 64},
        {"selector": "last"},
    ],
)
def test_runs_that_cannot_be_compared_never_share_a_table(make_record, other):
    mine, theirs = make_record(), make_record(**other)
    tables = make_tables([mine, theirs])
    assert sorted(tuple(row.records for row in table.rows) for table in tables) == sorted(
        [((mine.id,),), ((theirs.id,),)]
    )


@pytest.mark.parametrize(
    "other",
    [
        {"config": {"area": 0.35}},
        {"training": {"train": "all", "epochs": 20}},
        {"training": {"train": "head", "epochs": 10}},
        {"evaluation": {"epg_samples": 100}},
        {"regime": {"train": "groups", "select": "class"}},
        {"method": "aim"},
    ],
)
def test_runs_with_other_settings_are_rows_of_their_own(make_record, other):
    (table,) = make_tables([make_record(), make_record(**other), make_record(seed=1)])
    assert sorted(row.n for row in table.rows) == [1, 2]


def test_config_shows_only_what_differs_within_a_method_and_settings_what_differs_in_the_table(make_record):
    records = [
        make_record(method="erm", config={"width": 8}),
        make_record(method="aim", config={"area": 0.25, "stop": 2}, training={"train": "all", "epochs": 20}),
        make_record(method="aim", config={"area": 0.35, "stop": 2}, training={"train": "all", "epochs": 20}),
    ]
    (table,) = make_tables(records)
    assert [(row.method, row.config, row.settings) for row in table.rows] == [
        ("aim", "area=0.25", "train=all"),
        ("aim", "area=0.35", "train=all"),
        ("erm", "", "train=head"),
    ]
    assert "Training of all rows: epochs=20." in table.notes


def test_of_many_configurations_only_the_one_with_the_most_runs_is_said_in_full(make_record):
    usual = {"area": 0.25, "anneal": True, "stop": 2}
    records = [
        make_record(method="aim", config={**usual, "anneal": False}),
        make_record(method="aim", config={**usual, "anneal": False, "area": 0.5}),
        make_record(method="aim", config={"area": 0.25, "anneal": True}),
        *(make_record(method="aim", config=usual, seed=seed) for seed in (0, 1)),
        make_record(method="erm", config={"width": 8}),
    ]
    (table,) = make_tables(records)
    assert [(row.n, row.config) for row in table.rows if row.method == "aim"] == [
        (1, "anneal=false"),
        (1, "area=0.5, anneal=false"),
        (2, "area=0.25, anneal=true, stop=2"),
        (1, "no stop"),
    ]
    assert table.rows[-1].config == ""
    assert OF_CONFIG in table.notes
    (table,) = make_tables(records[3:])
    assert OF_CONFIG not in table.notes


def test_a_setting_that_came_later_is_said_with_the_value_that_runs_had_before(make_record):
    now = {"smooth_start": "identity", "smooth_lr_factor": 0.1, "area": 0.25}
    records = [make_record(method="aim", config=now, seed=seed) for seed in (0, 1)]
    records.append(make_record(method="aim", config={"area": 0.25}))
    (table,) = make_tables(records)
    assert [row.config for row in table.rows] == [
        "smooth_start=identity, smooth_lr_factor=0.1",
        "smooth_start=random, smooth_lr_factor=1.0",
    ]


def test_rows_are_sorted_by_method_whatever_their_numbers(make_record, make_metrics):
    records = [
        make_record(method=name, metrics={"test": make_metrics(accuracy=accuracy)})
        for name, accuracy in [("jtt", 0.9), ("aim", 0.1), ("erm", 0.5)]
    ]
    (table,) = make_tables(records)
    assert [row.method for row in table.rows] == ["aim", "erm", "jtt"]


def test_epg_by_boxes_is_never_ranked_with_epg_by_masks(make_record, make_metrics):
    by_mask = make_record(metrics={"test": make_metrics(gradcam=0.6)})
    evaluation = {**by_mask.evaluation, "epg_region": "boxes"}
    by_boxes = make_record(evaluation=evaluation, metrics={"test": make_metrics(gradcam=0.9)})
    boxes, masks = make_tables([by_mask, by_boxes])
    assert [row.records for row in (*boxes.rows, *masks.rows)] == [(by_boxes.id,), (by_mask.id,)]
    assert (boxes.epg_region, masks.epg_region) == ("boxes", "mask")
    assert boxes.id != masks.id
    assert title(boxes).endswith(", EPG by boxes")
    assert make_tables([by_mask])[0].id == masks.id


def test_epg_is_ranked_among_rows_of_the_same_photographs(make_record, make_metrics):
    def row(method, gradcam, samples):
        record = make_record(method=method, metrics={"test": make_metrics(accuracy=0.5, gradcam=gradcam)})
        return make_record(
            method=method,
            metrics={"test": make_metrics(accuracy=0.5, gradcam=gradcam)},
            evaluation={**record.evaluation, "epg_samples": samples},
        )

    (table,) = make_tables([row("erm", 0.3, 400), row("jtt", 0.6, 400), row("lff", 0.9, 8), row("rwy", 0.8, None)])
    assert {row.method: row.cells["epg_gradcam"].mark for row in table.rows} == {
        "erm": None,
        "jtt": "best",
        "lff": None,
        "rwy": None,
    }
    assert all(row.cells["accuracy"].mark == "best" for row in table.rows)
    (note,) = [note for note in table.notes if note.startswith("EPG is of")]
    assert note.startswith("EPG is of 8, 400, all test images (evaluation.epg_samples)")
    (alike,) = make_tables([row("erm", 0.3, 400), row("jtt", 0.6, 400)])
    assert not [note for note in alike.notes if note.startswith("EPG is of")]


def test_a_mask_that_is_open_everywhere_is_not_ranked(make_record, make_metrics):
    def row(method, mask, all_open, seed=0):
        health = {"stage3_active": all_open, "stage3_all_open": all_open, "stage3_all_closed": 0.0}
        metrics = make_metrics(accuracy=0.5, mask=mask).model_copy(update={"mask_health": health})
        return make_record(method=method, seed=seed, metrics={"test": metrics})

    def marks(*records):
        (table,) = make_tables(records)
        return [row.cells["epg_mask"].mark for row in table.rows]

    assert marks(row("a", 0.3, 1.0), row("b", 0.2, 0.1), row("c", 0.1, 0.1)) == [None, "best", None]
    assert marks(row("a", 0.3, 0.2), row("b", 0.2, 0.1), row("c", 0.1, 0.1)) == ["best", None, None]
    # A row is left out where the masks of every seed are open.
    two = [row("a", 0.9, 1.0), row("a", 0.9, 0.2, seed=1)]
    assert marks(*two, row("b", 0.2, 0.1)) == ["best", None]
    assert marks(two[0], row("a", 0.9, 1.0, seed=1), row("b", 0.2, 0.1), row("c", 0.1, 0.1)) == [None, "best", None]


def test_the_notes_name_where_attributions_were_empty(make_record, make_metrics):
    def run(method, seed, empty):
        found = make_metrics(gradcam=0.4)
        score = found.epg["gradcam"].model_copy(update={"n": 400, "undefined": empty})
        return make_record(
            method=method, seed=seed, metrics={"test": found.model_copy(update={"epg": {"gradcam": score}})}
        )

    runs = [run("aim", 0, 20), run("aim", 1, 64), run("erm", 0, 3)]  # 5 %, 16 % and less than 1 %
    (table,) = make_tables(runs)
    (note,) = [note for note in table.notes if "no positive part" in note]
    assert note.endswith("as 0; most in a run: aim gradcam 16%.")
    (without,) = make_tables([run("erm", 0, 3)])
    assert not any("no positive part" in note for note in without.notes)


def test_regimes_are_shown_and_a_difference_is_noted(make_record):
    dro = make_record(method="groupdro", regime={"train": "groups", "select": "val_groups"})
    (table,) = make_tables([make_record(), dro])
    assert [row.regime for row in table.rows] == [
        "train=class, select=class",
        "train=groups, select=val_groups",
    ]
    assert any("compare only rows of the same regime" in note for note in table.notes)
    (alone,) = make_tables([dro])
    assert not any("same regime" in note for note in alone.notes)
    assert not any("train=masks" in note for note in table.notes)
    (guided,) = make_tables([make_record(regime={"train": "masks", "select": "class"})])
    assert any("ground-truth masks or boxes are read in training" in note for note in guided.notes)


def test_worst_groups_are_named_most_frequent_first(make_record, make_metrics):
    worst = ["a", "b", "b"]
    records = [make_record(seed=i, metrics={"test": make_metrics(worst=name)}) for i, name in enumerate(worst)]
    (table,) = make_tables(records)
    assert table.rows[0].cells["worst_group_accuracy"].detail == ("b", "a")
    assert "(b; a)" in render(table, "md")


def test_where_groups_are_the_classes_the_caption_says_so(make_record):
    species = {"groups": ["crow", "gull"], "num_classes": 2}
    (table,) = make_tables([make_record(evaluation=species)])
    assert any("worst class" in note for note in table.notes)
    (table,) = make_tables([make_record()])
    assert not any("worst class" in note for note in table.notes)


def test_further_test_conditions_and_attributions_become_columns(make_record, make_metrics):
    metrics = {
        "val": make_metrics(accuracy=0.1),
        "test": make_metrics(accuracy=0.3, mask=0.5, uniform=0.14, centre=0.3),
        "test_training_places": make_metrics(accuracy=0.7),
    }
    assert not [key for key in digest(make_record(metrics=metrics)).scores if key.startswith("val")]
    (table,) = make_tables([make_record(metrics=metrics)])
    assert [column.title for column in table.columns] == [
        "Accuracy",
        "Reweighted",
        "Group mean",
        "WGA",
        "EPG gradcam",
        "EPG input x gradient",
        "EPG mask",
        "EPG uniform",
        "EPG centre",
        "Accuracy (training places)",
    ]
    cells = table.rows[0].cells
    assert cells["test_training_places_accuracy"].value == 0.7
    assert cells["epg_mask"].value == 0.5
    assert "epg_gradcam" not in cells
    assert grid(table)[1][-9] == "-"


def test_a_metric_that_only_some_runs_have_says_of_how_many_it_is(make_record, make_metrics):
    records = [
        make_record(seed=0, metrics={"test": make_metrics(mask=0.5)}),
        make_record(seed=1, metrics={"test": make_metrics()}),
    ]
    (table,) = make_tables(records)
    assert table.rows[0].cells["epg_mask"].n == 1
    assert "50.0 [49.0, 51.0] (n=1)" in grid(table)[1]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"kind": "mini"}, "Synthetic mini set"),
        ({"kind": "partial"}, "not comparable with published numbers"),
        ({"kind": "uncounted"}, "nothing says that it is whole"),
        ({"dirty": True}, "1 of 1 runs came from code with uncommitted changes"),
    ],
)
def test_what_weakens_a_table_is_noted(make_record, change, note):
    (table,) = make_tables([make_record(**change)])
    assert any(note in line for line in table.notes)


def test_a_selector_that_read_the_test_set_is_said_to_be_no_result(make_record):
    def chosen(oracle):
        score = SelectorScore(phase="train", epoch=3, val={}, test={}, uses_groups=False, oracle=oracle)
        return make_record().model_copy(update={"selectors": {"val_accuracy": score}})

    for oracle in (True, False):
        (table,) = make_tables([chosen(oracle)])
        assert any("an upper bound, not a result" in note for note in table.notes) is oracle


def test_markdown_leads_each_row_back_to_its_runs(make_record):
    records = [make_record(seed=0), make_record(seed=1), make_record(method="aim")]
    (table,) = make_tables(records)
    text = render(table, "md")
    assert f"(1) {records[2].id}; (2) {records[0].id}, {records[1].id}." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert rows[2].startswith("| aim (1) |")


def test_markdown_cells_cannot_break_the_table(make_record):
    (table,) = make_tables([make_record(config={"a": "x|y"}), make_record(config={"a": "1\n2"})])
    rows = [line for line in render(table, "md").splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert "x\\|y" in rows[3] or "x\\|y" in rows[2]


def test_csv_holds_full_fractions_and_the_ids(make_record, make_metrics):
    records = [
        make_record(seed=seed, metrics={"test": make_metrics(accuracy=accuracy)})
        for seed, accuracy in [(0, 1 / 3), (1, 2 / 3)]
    ]
    (line,) = csv.DictReader(io.StringIO(render(make_tables(records)[0], "csv")))
    assert float(line["accuracy"]) == pytest.approx(0.5, abs=1e-15)
    assert float(line["accuracy_std"]) == pytest.approx(2**0.5 / 6, abs=1e-15)
    assert float(line["accuracy_low"]) == 0
    assert line["records"].split() == [record.id for record in records]
    assert (line["dataset"], line["variant"], line["kind"], line["n"]) == (
        "waterbirds",
        "95",
        "official",
        "2",
    )


def test_csv_of_several_tables_has_one_header(make_record, make_metrics):
    tables = make_tables(
        [
            make_record(metrics={"test": make_metrics(), "test_black": make_metrics(accuracy=0.6)}),
            make_record(variant="100"),
        ]
    )
    lines = list(csv.DictReader(io.StringIO(render_all(tables, "csv"))))
    assert {line["variant"]: line["test_black_accuracy"] for line in lines} == {"95": "0.6", "100": ""}


def test_json_holds_full_fractions_and_the_ids(make_record, make_metrics):
    record = make_record(metrics={"test": make_metrics(accuracy=1 / 3)})
    content = json.loads(render(make_tables([record])[0], "json"))
    (row,) = content["tables"][0]["rows"]
    assert row["cells"]["accuracy"]["value"] == 1 / 3
    assert row["records"] == [record.id]
    assert content["tables"][0]["fingerprint"] == "f" * 64


def test_latex_is_booktabs_with_everything_escaped(make_record):
    regime = {"train": "a_b & 50 % {x} #1 $2 ~ ^ \\"}
    records = [make_record(seed=0, regime=regime), make_record(seed=1, regime=regime)]
    text = render(make_tables(records)[0], "latex")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"80.0 $\pm$ 0.0" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = re.search(r"\\begin\{tabular\}\{(l+)\}", text)
    assert columns is not None
    assert len(re.findall(r"(?<!\\)&", body)) == len(columns[1]) - 1
    assert not re.search(r"(?<!\\)[%#_]", body)
    expected = r"train=a\_b \& 50 \% \{x\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert expected in body


def test_an_unknown_format_names_the_nearest(make_record):
    with pytest.raises(ConfigError, match="did you mean 'latex'"):
        render(make_tables([make_record()])[0], "latec")


def test_a_row_tells_what_its_runs_take(make_record, make_metrics):
    metrics = {"test": make_metrics(accuracy=0.5)}
    records = [
        make_record(metrics=metrics, seed=seed).model_copy(
            update={"cost": Cost(parameters=9, trainable_parameters=2_562, gmacs=0.384, wall_seconds=seconds)}
        )
        for seed, seconds in enumerate([20.0, 900.0, 24.0])  # one of them beside others
    ]
    (table,) = make_tables(records)
    assert table.rows[0].cost == RowCost(trained=2_562, gmacs=0.384, seconds=24.0)
    header, line = grid(table)
    assert list(zip(header, line, strict=True))[-3:] == [
        ("Trained (M)", "0.00256"),
        ("GMACs", "0.38"),
        ("Seconds", "24"),
    ]
    shown = next(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert (shown["trained_parameters"], shown["gmacs"], shown["wall_seconds"]) == ("2562", "0.384", "24.0")


def test_cost_is_a_choice_of_columns_by_itself(make_record):
    (table,) = with_columns(make_tables([make_record()]), ["cost"])
    assert (table.columns, table.shows_cost) == ((), True)
    (table,) = with_columns(make_tables([make_record()]), ["worst_group_accuracy", "accuracy"])
    assert [column.key for column in table.columns] == ["worst_group_accuracy", "accuracy"]
    assert not table.shows_cost


def test_what_was_only_evaluated_leaves_the_settings_of_trained_rows_alone(make_record):
    trained = [make_record(training={"train": "head", "epochs": 20, "lr": lr}) for lr in (0.1, 0.2)]
    external = make_record(method="external", config={"name": "theirs"}).model_copy(update={"training": {}})
    (table,) = make_tables([*trained, external])
    assert [row.settings for row in table.rows] == ["lr=0.1", "lr=0.2", ""]
    assert any(note == "Training of all rows: train=head, epochs=20." for note in table.notes)
    assert table.rows[2].cost == RowCost(trained=None, gmacs=None, seconds=None)
    assert grid(table)[3][-3:] == ["-", "-", "-"]


def test_a_checkpoint_that_was_only_evaluated_leaves_the_settings_of_trained_rows_alone(make_record):
    trained = [make_record(training={"train": "head", "epochs": 20, "lr": lr}) for lr in (0.1, 0.2)]
    external = make_record(method="theirs", training={"external": "a checkpoint of a run", "checkpoint": "last.pt"})
    (table,) = make_tables([*trained, external])
    assert [row.settings for row in table.rows] == ["lr=0.1", "lr=0.2", "external=a checkpoint of a run"]
    assert table.notes[-1] == "Training of all rows that were trained here: train=head, epochs=20."
    (table,) = make_tables([external])
    assert table.notes[-1] == "Training of all rows: external=a checkpoint of a run, checkpoint=last.pt."


@pytest.mark.parametrize("newest", [0, 1])
def test_of_one_seed_run_twice_the_newest_run_counts_and_the_other_is_named(make_record, make_metrics, newest):
    """The same weights under two names, or a method whose source is stated anew, make two records of one run."""
    runs = [
        make_record(seed=3, metrics={"test": make_metrics(accuracy=accuracy)}).model_copy(
            update={"id": f"erm-{number}", "created": f"2026-01-0{1 + (number == newest)}T00:00:00Z"}
        )
        for number, accuracy in enumerate((0.4, 0.6))
    ]
    (table,) = make_tables(runs)
    (row,) = table.rows
    assert row.records == (f"erm-{newest}",)
    assert row.cells["accuracy"].value == pytest.approx((0.4, 0.6)[newest])
    said = f"Not shown, as a newer run of the same settings and seed is: erm-{1 - newest}."
    assert said in table.notes
    alone = rows_of(table, lambda _: True, [digest(run) for run in runs], "--method erm")
    assert alone is not None
    assert said in alone.notes
    # Of rows that are not asked for nothing is said.
    runs.append(make_record(method="aim"))
    (table,) = make_tables(runs)
    aim = rows_of(table, lambda row: row.method == "aim", [digest(run) for run in runs], "--method aim")
    assert aim is not None
    assert not [note for note in aim.notes if note.startswith("Not shown")]
