import zipfile

import pandas as pd
import pytest
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.errors import RecordError
from aimbench.results.bundle import export_records, import_records
from aimbench.results.store import Store
from aimbench.results.validate import check_record


@pytest.fixture
def store(tmp_path, sound_run, make_record):
    store = Store(tmp_path / "mine")
    store.write(*sound_run)
    store.write(make_record(method="aim"))
    return store


@pytest.fixture
def bundle(tmp_path, store):
    export_records(store, store.find(), tmp_path / "records.zip")
    return tmp_path / "records.zip"


def rewritten(bundle, change):
    """A copy of the zip with its contents changed."""
    with zipfile.ZipFile(bundle) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    copy = bundle.with_name("changed.zip")
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in change(contents).items():
            archive.writestr(name, content)
    return copy


def test_what_is_exported_is_imported_whole(store, bundle, tmp_path):
    other = Store(tmp_path / "other")
    added, kept = import_records(other, bundle)
    assert (len(added), kept) == (2, [])
    assert other.find() == store.find()
    sound = next(path for path in other.paths() if path.stem.startswith("erm"))
    assert check_record(other, sound) == []


def test_the_same_bundle_again_adds_nothing(store, bundle):
    added, kept = import_records(store, bundle)
    assert added == []
    assert len(kept) == 2


def test_an_id_with_other_content_is_refused_and_nothing_is_written(bundle, tmp_path, make_record):
    other = Store(tmp_path / "other")
    other.write(make_record(method="aim", revision="another"))
    before = other.find()
    with pytest.raises(RecordError, match=r"aim-\w+ is already in .* with other content"):
        import_records(other, bundle)
    assert other.find() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {n: t for n, t in c.items() if not n.endswith(".parquet")}, "lacks erm-.*predictions.parquet"),
        (lambda c: {n: t[:50] if n.endswith(".json") else t for n, t in c.items()}, "not valid JSON"),
        (lambda c: {n: t.replace(b'"schema": 1', b'"schema": 9') for n, t in c.items()}, "version 9 is unknown"),
        (lambda c: {n: t.replace(b'"seed": 0', b'"seed": 5') for n, t in c.items()}, "it was edited"),
        (lambda c: {n: b"other" if n.endswith(".parquet") else t for n, t in c.items()}, "sha256"),
        (lambda c: {f"../../{n}": t for n, t in c.items()}, None),
        (lambda c: {n.replace("waterbirds/", "cub/"): t for n, t in c.items()}, "belongs at waterbirds"),
    ],
)
def test_a_broken_bundle_writes_nothing_outside_or_inside(bundle, tmp_path, change, message):
    target = tmp_path / "deep" / "er" / "other"
    other = Store(target)
    if message is None:  # Names in a zip are no paths: the records land where they belong.
        import_records(other, rewritten(bundle, change))
        assert {path.parent for path in other.paths()} == {target / "records" / "waterbirds"}
        assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["er"]
        return
    with pytest.raises(RecordError, match=message):
        import_records(other, rewritten(bundle, change))
    assert other.paths() == []


def test_what_is_no_zip_is_named(tmp_path, store):
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(RecordError, match=r"x\.zip: not readable as a zip"):
        import_records(store, tmp_path / "x.zip")


def test_a_damaged_zip_or_one_without_records_is_named(bundle, tmp_path):
    other = Store(tmp_path / "other")
    content = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as archive:
        info = max(archive.infolist(), key=lambda entry: entry.compress_size)
    start = info.header_offset + 30 + len(info.filename)
    content[start : start + 40] = bytes(255 - value for value in content[start : start + 40])
    bundle.write_bytes(content)
    with pytest.raises(RecordError, match="not readable as a zip"):
        import_records(other, bundle)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(RecordError, match="it holds no record"):
        import_records(other, tmp_path / "empty.zip")
    assert other.paths() == []


def test_the_commands(store, tmp_path):
    zipped = str(tmp_path / "out.zip")
    run = CliRunner().invoke(app, ["results", "export", "--out", zipped, "--results", str(store.root)])
    assert "2 records in" in run.output
    run = CliRunner().invoke(app, ["results", "import", zipped, "--results", str(tmp_path / "third")])
    assert "2 added, 0 already there" in run.output
    run = CliRunner().invoke(app, ["results", "export", "--out", "out.txt", "--results", str(store.root)])
    assert isinstance(run.exception, RecordError)
    assert "name a FILE.zip" in str(run.exception)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="name another file with --out"):
        export_records(store, store.find(), tmp_path / "file" / "out.zip")


def test_pandas_and_hugging_face_open_the_runs_in_one_line(store, tmp_path):
    # As in results/README.md.
    out = str(tmp_path / "runs.jsonl")
    CliRunner().invoke(app, ["results", "export", "--out", out, "--results", str(store.root)])
    table = pd.read_json(out, lines=True)
    assert dict(zip(table["method"], table["accuracy"], strict=True)) == {"erm": 0.625, "aim": 0.8}
    assert table.set_index("method")["epg_gradcam"].isna().to_dict() == {"erm": False, "aim": True}

    import datasets

    loaded = datasets.load_dataset("json", data_files=out, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["id"]) == sorted(table["id"])
    predictions = pd.read_parquet(next(store.records.rglob("*.predictions.parquet")))
    assert len(predictions) == 8


def test_what_belongs_to_no_record_is_not_read(bundle, tmp_path, monkeypatch):
    with zipfile.ZipFile(bundle) as archive:
        largest = max(info.file_size for info in archive.infolist())
    monkeypatch.setattr("aimbench.results.bundle._MAX_BYTES", largest)
    other = Store(tmp_path / "other")
    added, _ = import_records(other, rewritten(bundle, lambda c: {**c, "junk.bin": bytes(2 * largest)}))
    assert len(added) == len(other.paths()) > 0
    with pytest.raises(RecordError, match="more than any record's file"):
        import_records(other, rewritten(bundle, lambda c: {**c, "junk.json": bytes(2 * largest)}))
