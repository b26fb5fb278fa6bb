import csv
from pathlib import Path

import pytest

from aimbench.errors import ConfigError, RecordError
from aimbench.results.reference import load_references, references_for
from aimbench.results.render import render_all
from aimbench.results.tables import make_tables

PUBLISHED = Path(__file__).parents[2] / "results" / "reference"


def test_the_published_numbers_that_we_keep_are_all_readable():
    references = load_references(PUBLISHED)
    lines = sum(len(list(csv.DictReader(path.open()))) for path in PUBLISHED.glob("*.csv"))
    assert len(references) == lines > 50


@pytest.mark.parametrize(
    ("method", "dataset", "variant", "metric", "value"),
    [
        ("AIM[2,25%]", "travelingbirds", "", "accuracy", 77.4),
        ("AIM[2,35%]", "waterbirds", "100", "worst_group_accuracy", 78.1),
        ("ERM", "travelingbirds", "", "epg", 74.4),
        ("Standard", "travelingbirds", "", "accuracy", 37.3),
        ("MaskTune", "waterbirds", "corrected", "worst_group_accuracy", 86.4),
    ],
)
def test_some_published_numbers_are_as_printed(method, dataset, variant, metric, value):
    found = [
        r.value
        for r in load_references(PUBLISHED)
        if (r.method, r.dataset, r.variant, r.metric) == (method, dataset, variant, metric)
    ]
    assert found == [value]


def test_numbers_nobody_checked_in_the_paper_say_so():
    relayed = [r for r in load_references(PUBLISHED) if "relayed" in r.source]
    assert relayed
    assert {r.confidence for r in relayed} == {"secondary source"}


def test_tables_get_the_numbers_of_their_own_dataset_and_variant(make_record):
    references = load_references(PUBLISHED)
    of_95 = references_for(make_tables([make_record()]), references)
    assert {(r.dataset, r.variant) for r in of_95} == {("waterbirds", "95")}
    birds = references_for(make_tables([make_record(dataset="travelingbirds", variant="default")]), references)
    assert {(r.dataset, r.variant) for r in birds} == {("travelingbirds", "")}


def test_a_synthetic_set_has_no_published_numbers(make_record):
    tables = make_tables([make_record(dataset="travelingbirds", variant="mini", kind="mini")])
    assert references_for(tables, load_references(PUBLISHED)) == []


def test_references_stand_beneath_and_apart(make_record):
    tables = make_tables([make_record()])
    references = references_for(tables, load_references(PUBLISHED))
    ours, beneath = render_all(tables, "md", references).split("**Published numbers")
    assert "DFR" not in ours
    assert "| DFR | waterbirds@95 | resnet50 | worst_group_accuracy | 92.9 |" in beneath
    assert render_all(tables, "latex", references).count(r"\toprule") == 2
    with pytest.raises(ConfigError, match="results/reference"):
        render_all(tables, "csv", references)


HEADER = "method,dataset,variant,backbone,metric,value,std,selector,average,source,confidence\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ERM,cub,,r,accuracy,high,,,,paper,authors' code\n", r"mine.csv, row 2: column 'value'"),
        ("ERM,cub,,r,accuracy,80,,,,paper,hearsay\n", r"row 2: column 'confidence'"),
        ("ERM,cub,,r,accuracy,80,,,,,authors' code\n", r"row 2: column 'source'"),
        ("ERM,cub,,r,accuracy,nan,,,,paper,authors' code\n", r"row 2: column 'value'"),
        ("ERM,cub\n", r"row 2"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    (tmp_path / "mine.csv").write_text(HEADER + row)
    with pytest.raises(RecordError, match=message):
        load_references(tmp_path)


def test_a_folder_that_is_not_there_holds_no_references(tmp_path):
    assert load_references(tmp_path / "none") == []
