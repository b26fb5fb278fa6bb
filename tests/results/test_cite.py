import re

import pytest
from typer.testing import CliRunner

from aimbench.cards import load_card
from aimbench.cli import app
from aimbench.errors import RecordError
from aimbench.results.cite import bibtex, find_cited
from aimbench.results.store import Store
from aimbench.results.tables import make_tables
from aimbench.train.registry import method_card


@pytest.fixture
def store(tmp_path, make_record):
    store = Store(tmp_path)
    for record in [make_record(), make_record(seed=1), make_record(method="aim"), make_record(variant="100")]:
        store.write(record)
    return store


def test_a_record_cites_aimbench_its_dataset_and_its_method(store, make_record):
    record = make_record(method="aim")
    text = bibtex(record.id, find_cited(store, record.id[:6])[1], load_card, method_card)
    keys = re.findall(r"@\w+\{([^,]+),", text)
    data = ["sagawa2020distributionally", "wah2011caltech", "zhou2018places"]
    assert keys == [f"aimbench-{record.id}", *data, "alshami2025aim"]
    assert record.id in text
    assert "version = {0.1.0}" in text
    # BibTeX reads an entry up to its closing brace.
    assert text.count("{") == text.count("}")


def test_a_table_cites_all_of_its_runs_once(store):
    table = next(table for table in make_tables(store.find()) if table.variant == "95")
    full, records = find_cited(store, table.id[:12])
    assert full == table.id
    assert {record.method.name for record in records} == {"aim", "erm"}
    text = bibtex(table.id, records, load_card, method_card)
    assert text.count("@software") == 1
    assert text.count("vapnik1991") == 1
    assert f"{table.id}, waterbirds@95 (official), 3 runs, sha256 " in text
    assert "year    = {2026}" in text


def test_a_table_with_a_run_more_is_another_citation(store, make_record):
    table = next(table for table in make_tables(store.find()) if table.variant == "95")
    before = bibtex(table.id, find_cited(store, table.id)[1], load_card, method_card)
    assert bibtex(table.id, find_cited(store, table.id)[1], load_card, method_card) == before
    store.write(make_record(seed=2))
    pins = [
        re.search(r"runs, sha256 (\w{12})", text)
        for text in (before, bibtex(table.id, find_cited(store, table.id)[1], load_card, method_card))
    ]
    assert all(pins)
    assert len({pin and pin[1] for pin in pins}) == 2


def test_a_variant_with_a_paper_of_its_own_is_cited_too(store, make_record):
    text = bibtex("x", [make_record(variant="100")], load_card, method_card)
    assert load_card("waterbirds").variants["100"].citation.strip() in text


def test_what_has_no_card_is_named(make_record):
    text = bibtex("x", [make_record(dataset="mine", method="own")], lambda name: None, lambda name: None)
    assert "% dataset mine: no card here" in text
    assert "% method own: no card here" in text


def test_what_several_cards_hold_is_cited_once_and_metrics_are_cited(make_record, make_metrics):
    metrics = {"test": make_metrics(gradcam=0.5, smoothgrad=0.4)}
    records = [make_record(dataset=name, metrics=metrics) for name in ("waterbirds", "cub")]
    text = bibtex("x", records, load_card, method_card)
    assert text.count("@techreport{wah2011caltech,") == 1
    for key in ("wang2020score", "selvaraju2017grad", "smilkov2017smoothgrad"):
        assert text.count(key) == 1
    assert "sundararajan2017axiomatic" not in text
    assert "% backbone resnet50: cite its authors" in text
    assert text.count("{") == text.count("}")


def test_a_mini_is_cited_as_ours_not_as_the_dataset_that_it_is_named_after(make_record):
    text = bibtex("x", [make_record(variant="mini", kind="mini")], load_card, method_card)
    assert "waterbirds@mini (mini)" in text
    assert "% dataset waterbirds, variant mini: drawn by aimbench" in text
    for key in ("sagawa2020distributionally", "wah2011caltech", "zhou2018places"):
        assert key not in text


def test_the_citation_says_what_prints_its_sha256_again(store, make_record):
    record = make_record()
    text = bibtex(record.id, [record], load_card, method_card)
    assert f"'aimbench results cite {record.id}' prints the same" in text.splitlines()[0]


def test_an_unknown_table_is_an_error(store):
    with pytest.raises(RecordError, match="is not known"):
        find_cited(store, "table-ffffffffffff")


def test_the_command_prints_it(store, make_record):
    result = CliRunner().invoke(app, ["results", "cite", make_record(method="aim").id, "--results", str(store.root)])
    assert result.exit_code == 0
    assert "@inproceedings{alshami2025aim," in result.output
