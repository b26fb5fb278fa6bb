"""What a large registry must bear: many writers, many records."""

import multiprocessing
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimbench.cards import load_card
from aimbench.cli import app
from aimbench.results import index
from aimbench.results.digest import digest
from aimbench.results.index import find_digests, read_digests
from aimbench.results.site.pages import build_site
from aimbench.results.store import Store
from aimbench.train.registry import method_card


@pytest.fixture
def small(tmp_path, make_record, monkeypatch):
    """A registry of six runs for which the index is used."""
    monkeypatch.setattr(index, "SMALLEST", 1)
    store = Store(tmp_path)
    for seed in range(3):
        store.write(make_record(seed=seed))
        store.write(make_record(method="aim", seed=seed, regime={"train": "groups"}))
    return store


def test_the_index_says_what_the_records_say(small, monkeypatch):
    expected = [digest(record) for record in small.find()]
    assert read_digests(small) == expected  # from the records
    monkeypatch.setattr(Store, "read", lambda self, path: pytest.fail(f"{path} was read again"))
    assert read_digests(small) == expected  # from the index


def test_filters_work_on_digests(small):
    assert {run.method for run in find_digests(small, "waterbirds", {"method": "aim"})} == {"aim"}
    assert len(find_digests(small, None, {"variant": "95", "kind": "official", "backbone": None})) == 6
    assert {run.method for run in find_digests(small, None, {"method": "aim"})} == {"aim"}
    assert find_digests(small, None, {"selector": "last"}) == []


def test_a_changed_a_new_and_a_removed_record_are_seen(small, make_record):
    read_digests(small)
    small.write(make_record(seed=1, revision="later"), replace=True)
    small.write(make_record(seed=7))
    small.paths()[0].unlink()
    assert read_digests(small) == [digest(record) for record in small.find()]


@pytest.mark.parametrize("content", ["", "[]", '{"version": "0", "entries": {}}', '{"version": 1}', "\x00"])
def test_an_index_that_cannot_be_read_is_made_anew(small, content):
    expected = read_digests(small)
    (small.records / ".index.json").write_text(content)
    assert read_digests(small) == expected


def test_a_small_registry_has_no_index(tmp_path, make_record):
    store = Store(tmp_path)
    store.write(make_record())
    read_digests(store)
    assert list(store.records.glob(".index*")) == []


def _write_200(root: Path, worker: int, make_record) -> None:
    for seed in range(200):
        record = make_record(method=f"m{worker}", seed=seed)
        Store(root).write(record, {f"{record.id}.predictions.parquet": b"x" * 1000})


@pytest.mark.slow
def test_eight_processes_write_200_records_each_and_none_is_lost_or_torn(tmp_path, make_record):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_200, args=(tmp_path, worker, make_record)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
    assert [worker.exitcode for worker in workers] == [0] * 8
    records = Store(tmp_path).find()
    assert len(records) == 1600
    for record in records:
        (name,) = record.files
        assert (tmp_path / "records" / "waterbirds" / name).stat().st_size == 1000
    assert list(tmp_path.rglob("*.tmp")) == []


@pytest.mark.slow
def test_ten_thousand_records_make_a_table_and_a_site_in_time(tmp_path, make_record):
    store = Store(tmp_path / "results")
    (store.records / "waterbirds").mkdir(parents=True)
    for number in range(10_000):
        record = make_record(method=f"m{number // 5 % 20}", config={"a": number // 100}, seed=number % 5)
        text = record.model_dump_json(by_alias=True, indent=1)
        (store.records / "waterbirds" / f"{record.id}.json").write_text(text)
    table = ["results", "table", "--results", str(store.root), "--format", "csv"]
    first = CliRunner().invoke(app, table).output  # makes the index
    # Processor time, which other work on the machine does not change.
    start = time.process_time()
    assert CliRunner().invoke(app, table).output == first
    assert time.process_time() - start < 2
    assert first.count("\n") == 2001
    start = time.process_time()
    pages = build_site(store.root, tmp_path / "site", dataset_card=load_card, method_card=method_card)
    assert time.process_time() - start < 60
    assert pages == 10_000 + 20 + 2
