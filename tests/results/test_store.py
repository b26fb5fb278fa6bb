import hashlib
import json
import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aimbench.errors import RecordError
from aimbench.results.store import Store, parquet_name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_a_stored_record_is_read_back_equal_with_the_checksums_of_its_files(store, make_record):
    record = make_record()
    name = parquet_name(record.id, "predictions")
    path = store.write(record, {name: b"rows"})
    assert path == store.root / "records" / "waterbirds" / f"{record.id}.json"
    assert (path.parent / name).read_bytes() == b"rows"
    expected = record.model_copy(update={"files": {name: hashlib.sha256(b"rows").hexdigest()}})
    assert store.get(record.id) == expected
    assert json.loads(path.read_text())["schema"] == 1


def test_the_checksum_is_that_of_the_file_whatever_the_record_said(store, make_record):
    record = make_record()
    name = parquet_name(record.id, "predictions")
    store.write(record.model_copy(update={"files": {name: "0" * 64}}), {name: b"rows"})
    assert store.get(record.id).files == {name: hashlib.sha256(b"rows").hexdigest()}


def test_nothing_but_the_record_and_its_files_is_left_in_the_folder(store, make_record):
    record = make_record()
    path = store.write(record, {parquet_name(record.id, "epochs"): b"x"})
    visible = sorted(p.name for p in path.parent.iterdir() if p.name != ".lock")
    assert visible == [f"{record.id}.epochs.parquet", f"{record.id}.json"]


def test_the_same_definition_again_keeps_the_first_record(store, make_record):
    first, second = make_record(revision="first"), make_record(revision="second")
    assert first.id == second.id
    store.write(first, {parquet_name(first.id, "epochs"): b"first"})
    path = store.write(second, {parquet_name(first.id, "epochs"): b"second"})
    assert store.get(first.id).code.revision == "first"
    assert path.with_suffix(".epochs.parquet").read_bytes() == b"first"


def test_replace_overwrites_the_record_and_drops_files_that_it_no_longer_has(store, make_record):
    first, second = make_record(revision="first"), make_record(revision="second")
    store.write(first, {parquet_name(first.id, c): b"first" for c in ("epochs", "predictions")})
    path = store.write(second, {parquet_name(first.id, "predictions"): b"second"}, replace=True)
    assert store.get(first.id).code.revision == "second"
    assert sorted(p.name for p in path.parent.glob("*.parquet")) == [f"{first.id}.predictions.parquet"]
    assert path.with_suffix(".predictions.parquet").read_bytes() == b"second"


def test_a_write_that_fails_half_way_leaves_no_json(store, make_record, monkeypatch):
    record = make_record()
    monkeypatch.setattr("aimbench.results.store.os.fsync", _full_disk)
    with pytest.raises(RecordError, match=r"No space left.*--results or AIMBENCH_RESULTS"):
        store.write(record, {parquet_name(record.id, "epochs"): b"x"})
    assert store.paths() == []
    assert not store.exists(record.id)
    assert [p for p in store.records.rglob("*") if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_between_two_files_leaves_no_json_that_is_not_of_them(store, make_record, monkeypatch, replace):
    first, second = make_record(revision="first"), make_record(revision="second")
    name = parquet_name(first.id, "predictions")
    if replace:
        store.write(first, {name: b"first"})
    rename, renamed = Path.replace, []

    def killed(self, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(second, {name: b"second"}, replace=replace)
    assert store.paths() == []


def _full_disk(descriptor):
    raise OSError(28, "No space left on device")


def test_a_results_folder_that_cannot_be_written_is_named_with_the_mend(tmp_path, make_record):
    (tmp_path / "results").write_text("a file, not a folder")
    with pytest.raises(RecordError, match=r"results/records/waterbirds can't be written .*AIMBENCH_RESULTS"):
        Store(tmp_path / "results").write(make_record())


def test_a_results_folder_can_be_tried_before_a_long_run(tmp_path):
    Store(tmp_path / "new").check_writable()
    assert list((tmp_path / "new" / "records").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"file/records can't be written .*AIMBENCH_RESULTS"):
        Store(tmp_path / "file").check_writable()


def test_a_unique_prefix_finds_its_record_and_an_ambiguous_one_lists_the_candidates(store, make_record):
    erm, aim = make_record(), make_record(method="aim")
    for record in (erm, aim, make_record(seed=1)):
        store.write(record)
    assert store.get(aim.id[:6]).id == aim.id
    with pytest.raises(RecordError, match=f"ambiguous.*{erm.id}"):
        store.get("erm-")
    with pytest.raises(RecordError, match=f"did you mean.*{aim.id}"):
        store.get(aim.id[:-1] + "x")


def test_exists_wants_the_whole_id(store, make_record):
    record = make_record()
    store.write(record)
    assert store.exists(record.id)
    assert not store.exists(record.id[:-1])


def test_find_filters_by_each_field_and_sorts(store, make_record):
    records = [
        make_record(method="erm", seed=1),
        make_record(method="erm", seed=0),
        make_record(method="aim"),
        make_record(variant="100"),
        make_record(dataset="cub", variant="standard"),
        make_record(kind="mini", variant="mini"),
        make_record(backbone="resnet18"),
        make_record(selector="last"),
    ]
    for record in records:
        store.write(record)
    assert len(store.find()) == 8
    assert store.find()[0].dataset.name == "cub"
    assert [r.seed for r in store.find("waterbirds", "95", "erm", "official", "resnet50", "val_accuracy")] == [0, 1]
    assert [r.method.name for r in store.find(method="aim")] == ["aim"]
    assert len(store.find(variant="100")) == 1
    assert len(store.find(kind="mini")) == 1
    assert len(store.find(backbone="resnet18")) == 1
    assert len(store.find(selector="last")) == 1
    assert store.find("imagewoof") == []


def test_an_empty_root_holds_nothing(store):
    assert store.find() == []
    with pytest.raises(RecordError, match=r"no record 'aim-0'.*known: none"):
        store.get("aim-0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "[]", "no JSON object"),
        (lambda text: text.replace('"schema": 1', '"schema": 7'), "schema version 7 is unknown.*reads 1"),
        (lambda text: text.replace('"schema": 1,', ""), "schema version None"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "definition hashes to erm-.*it was edited"),
        (lambda text: text.replace('"wall_seconds": 1.5', '"wall_seconds": "long"'), "cost.wall_seconds"),
        (lambda text: text.replace('"wall_seconds": 1.5', '"wall_seconds": NaN'), "NaN is not a JSON number"),
        (lambda text: text.replace('"environment"', '"surroundings"'), "field 'environment' is missing"),
        (
            lambda text: text.replace('"files": {}', '"files": {"../../x.parquet": "0"}'),
            "file name '../../x.parquet'",
        ),
    ],
)
def test_a_broken_record_is_an_error_that_names_the_file(store, make_record, change, message):
    path = store.write(make_record())
    path.write_text(change(path.read_text()))
    with pytest.raises(RecordError, match=message) as error:
        store.find()
    assert path.name in str(error.value) or path.stem in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_a_record_error(store, make_record):
    path = store.write(make_record())
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="not UTF-8"):
        store.find()


def test_a_record_under_another_name_or_dataset_is_refused(store, make_record):
    path = store.write(make_record())
    copy = path.with_name("erm-000000000000.json")
    copy.write_text(path.read_text())
    with pytest.raises(RecordError, match=r"belongs at waterbirds/erm-"):
        store.read(copy)
    (store.records / "cub").mkdir()
    copy = path.rename(store.records / "cub" / path.name)
    with pytest.raises(RecordError, match=r"belongs at waterbirds/erm-"):
        store.read(copy)


@pytest.mark.parametrize("name", ["..", "../out", "a/b", ".hidden", "", "a b"])
def test_no_dataset_name_leads_out_of_the_store(store, make_record, name):
    with pytest.raises(RecordError, match="dataset name"):
        store.write(make_record(dataset=name))
    with pytest.raises(RecordError, match="dataset name"):
        store.find(dataset=name)


@pytest.mark.parametrize("record_id", ["../erm", "*", "erm/../../x", "", "[a-z]*"])
def test_no_id_leads_out_of_the_store_or_matches_as_a_pattern(store, make_record, record_id):
    store.write(make_record())
    with pytest.raises(RecordError, match="not allowed"):
        store.get(record_id)


@pytest.mark.parametrize("name", ["../x.parquet", "other.predictions.parquet", "{id}.json", "{id}/../x.parquet"])
def test_a_file_that_is_not_the_records_own_is_refused(store, make_record, name):
    record = make_record()
    with pytest.raises(RecordError, match="file name"):
        store.write(record, {name.format(id=record.id): b""})
    assert not store.records.exists()


def test_a_record_whose_id_is_not_its_hash_is_not_stored(store, make_record):
    wrong = make_record().model_copy(update={"id": "erm-000000000000"})
    with pytest.raises(RecordError, match="hashes to"):
        store.write(wrong)
    assert store.paths() == []


def test_the_id_does_not_depend_on_the_process(make_record):
    code = (
        "import sys; sys.path.insert(0, 'tests/results'); from conftest import made_up_record; "
        "print(made_up_record(config={'b': 1, 'a': (1, 2)}).id)"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == make_record(config={"a": [1, 2], "b": 1}).id


def _write_many(root: Path, worker: int, make_record, together) -> None:
    # As on a slow network disk, where another process is likely to come between two renames.
    rename, uneven = Path.replace, random.Random(worker)
    Path.replace = lambda self, target: (rename(self, target), time.sleep(uneven.uniform(0, 0.01)))[0]
    store = Store(root)
    for seed in range(12):
        together.wait()
        record = make_record(seed=seed, revision=f"worker {worker}")
        content = f"worker {worker}".encode() * 1000
        # Half of the workers insist, so that whole records are overwritten under the readers.
        store.write(record, {parquet_name(record.id, "predictions"): content}, replace=worker % 2 == 0)


def test_eight_processes_write_the_same_records_and_each_one_stays_whole(tmp_path, make_record):
    context = multiprocessing.get_context("fork")
    together = context.Barrier(8, timeout=60)
    workers = [
        context.Process(target=_write_many, args=(tmp_path, worker, make_record, together)) for worker in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    records = Store(tmp_path).find()
    assert [record.seed for record in records] == list(range(12))
    for record in records:
        name = parquet_name(record.id, "predictions")
        content = (tmp_path / "records" / "waterbirds" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.files[name]
        assert content.startswith(record.code.revision.encode())
    assert list(tmp_path.rglob("*.tmp")) == []
