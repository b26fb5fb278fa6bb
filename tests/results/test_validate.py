import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from aimbench.results.store import Store
from aimbench.results.validate import check_record


@pytest.fixture
def stored(tmp_path, sound_run):
    store = Store(tmp_path)
    return store, store.write(*sound_run)


def edit(path, *keys, value):
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_a_sound_record_has_no_problems_and_the_numbers_worked_out_by_hand(stored):
    store, path = stored
    assert check_record(store, path) == []
    test = store.read(path).metrics["test"]
    assert test.accuracy.value == 5 / 8
    assert test.worst_group == "waterbird on land"
    assert test.groups["landbird on water"].correct == 1


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("accuracy", "value"), 0.9),
        (("accuracy", "value"), 0.62501),
        (("accuracy", "low"), 0.6),
        (("accuracy_reweighted", "value"), 0.99),
        (("accuracy_group_mean", "value"), 0.7),
        (("accuracy_class_balanced",), 0.7),
        (("worst_group_accuracy", "value"), 0.5),
        (("worst_group",), "landbird on land"),
        (("groups", "waterbird on land", "correct"), 1),
        (("n",), 9),
        (("empty_groups",), ["landbird on land"]),
        (("epg", "gradcam", "value"), 0.6),
        (("epg", "gradcam", "n"), 5),
        (("epg", "gradcam", "low"), 0.1),
        (("epg", "gradcam", "correct"), 0.9),
        (("epg", "gradcam", "groups", "landbird on water"), 0.9),
    ],
)
def test_an_edited_number_is_caught_and_named(stored, keys, value):
    store, path = stored
    edit(path, "metrics", "test", *keys, value=value)
    problems = check_record(store, path)
    assert len(problems) == 1
    assert path.name in problems[0]
    assert f"metrics.test.{'.'.join(keys)}: the record says {value}" in problems[0]


def test_a_metric_that_was_removed_is_caught(stored):
    store, path = stored
    edit(path, "metrics", "test", "worst_group_accuracy", value=None)
    assert any("metrics.test.worst_group_accuracy" in problem for problem in check_record(store, path))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("metrics",), {}, "metrics.test is missing"),
        (("metrics", "test", "epg"), {}, "metrics.test.epg.gradcam is missing"),
        (("metrics", "test", "epg", "gradcam", "undefined"), 2, "undefined: the record says 2, the predictions hold 0"),
        (("metrics", "test", "epg", "gradcam", "high"), 1.5, "less than or equal to 1"),
        (("cost", "wall_seconds"), -5, "greater than or equal to 0"),
    ],
)
def test_what_is_left_out_or_out_of_range_is_caught(stored, keys, value, message):
    store, path = stored
    edit(path, *keys, value=value)
    assert any(message in problem for problem in check_record(store, path))


def test_a_record_that_says_nothing_of_the_test_split_is_caught(tmp_path, sound_run):
    record, files = sound_run
    ((name, content),) = files.items()
    (tmp_path / name).write_bytes(content)
    pd.read_parquet(tmp_path / name).assign(split="val").to_parquet(tmp_path / name)
    record = record.model_copy(update={"metrics": {"val": record.metrics["test"]}})
    store = Store(tmp_path / "store")
    path = store.write(record, {name: (tmp_path / name).read_bytes()})
    assert check_record(store, path) == [f"record {path}: metrics.test is missing; run it again"]


@pytest.mark.parametrize(("value", "fewer", "caught"), [(0.0, 0, True), (0.0, 1, False), (None, 0, False)])
def test_probes_of_another_model_than_the_records_are_caught(stored, value, fewer, caught):
    store, path = stored
    test = json.loads(path.read_text())["metrics"]["test"]
    accuracy = test["accuracy"]["value"]
    probe = {"value": accuracy if value is None else value, "low": 0.0, "high": 1.0, "n": test["n"] - fewer}
    edit(path, "probes", value={"accuracy": probe})
    problems = check_record(store, path)
    assert ["probes.accuracy: the record says 0.0 of all test images" in p for p in problems] == [True] * caught


def test_a_subset_of_another_size_than_the_definition_says_is_caught(tmp_path, sound_run):
    record, files = sound_run
    store = Store(tmp_path)
    test = record.metrics["test"].model_copy(update={"epg_samples": "400 with seed 0"})
    record = record.model_copy(
        update={"evaluation": {**record.evaluation, "epg_samples": 4}, "metrics": {"test": test}}
    )
    record = record.model_copy(update={"id": record.definition.id})
    path = store.write(record, {f"{record.id}.predictions.parquet": next(iter(files.values()))})
    assert any("epg_samples is '400 with seed 0', the evaluation took 4" in p for p in check_record(store, path))


def test_epg_by_masks_where_the_definition_says_boxes_is_caught(tmp_path, sound_run):
    record, files = sound_run
    store = Store(tmp_path)
    test = record.metrics["test"].model_copy(update={"epg_region": "mask"})
    evaluation = {**record.evaluation, "epg_region": "boxes"}
    record = record.model_copy(update={"evaluation": evaluation, "metrics": {"test": test}})
    record = record.model_copy(update={"id": record.definition.id})
    path = store.write(record, {f"{record.id}.predictions.parquet": next(iter(files.values()))})
    (problem,) = check_record(store, path)
    assert problem.endswith("metrics.test.epg_region is 'mask', the evaluation's is 'boxes'")


def test_a_split_without_predictions_is_caught(stored):
    store, path = stored
    content = json.loads(path.read_text())
    content["metrics"]["test_black"] = content["metrics"]["test"]
    path.write_text(json.dumps(content))
    assert any("no predictions of split 'test_black'" in problem for problem in check_record(store, path))


def test_an_edited_definition_is_caught(stored):
    store, path = stored
    edit(path, "method", "config", value={"lr": 1})
    (problem,) = check_record(store, path)
    assert "it was edited" in problem


def test_changed_or_missing_predictions_are_caught(stored):
    store, path = stored
    predictions = path.with_suffix(".predictions.parquet")
    table = pd.read_parquet(predictions)
    table["prediction"] = table["label"]
    table.to_parquet(predictions)
    (problem,) = check_record(store, path)
    assert "changed after the run (sha256)" in problem
    predictions.unlink()
    (problem,) = check_record(store, path)
    assert "is missing" in problem


def test_a_record_without_predictions_cannot_be_checked(tmp_path, make_record):
    store = Store(tmp_path)
    path = store.write(make_record())
    problems = check_record(store, path)
    assert len(problems) == 2
    assert "lists no predictions of its epochs" in problems[0]
    assert "lists no erm-" in problems[1]


def test_predictions_that_are_no_parquet_or_lack_columns_are_named(tmp_path, sound_run):
    record, _ = sound_run
    store = Store(tmp_path)
    name = f"{record.id}.predictions.parquet"
    path = store.write(record, {name: b"not parquet"})
    assert any("not readable" in problem for problem in check_record(store, path))
    pd.DataFrame({"split": ["test"]}).to_parquet(tmp_path / "short.parquet")
    store.write(record, {name: (tmp_path / "short.parquet").read_bytes()}, replace=True)
    (problem,) = check_record(store, path)
    assert "lacks the columns label, prediction" in problem


def test_a_sample_without_positive_energy_counts_as_zero_stored_as_zero_or_missing(tmp_path, sound_run, epg_of_four):
    record, files = sound_run
    ((name, content),) = files.items()
    (tmp_path / name).write_bytes(content)
    test = record.metrics["test"]
    # By hand: 0.2 + 0.4 + 0.6 over four samples, the fourth undefined.
    score = epg_of_four([0.2, 0.4, 0.6, 0.0], 0.3, 0.0, [0.3, 0.3], undefined=1)
    record = record.model_copy(update={"metrics": {"test": test.model_copy(update={"epg": {"gradcam": score}})}})
    for stored_as in (0.0, None):
        table = pd.read_parquet(tmp_path / name)
        table.loc[3, "epg_gradcam"] = stored_as
        table.to_parquet(tmp_path / "changed.parquet")
        store = Store(tmp_path / str(stored_as))
        path = store.write(record, {name: (tmp_path / "changed.parquet").read_bytes()})
        assert check_record(store, path) == []


@pytest.mark.parametrize("right", [True, False])
def test_where_all_or_none_are_right_there_is_no_mean_of_the_others(tmp_path, sound_run, epg_of_four, right):
    from aimbench.metrics.groups import split_metrics

    record, files = sound_run
    ((name, content),) = files.items()
    (tmp_path / name).write_bytes(content)
    table = pd.read_parquet(tmp_path / name)
    table["prediction"] = table["label"] if right else 1 - table["label"]
    table.to_parquet(tmp_path / name)
    score = epg_of_four([0.2, 0.4, 0.6, 0.8], 0.5, 0.5, [0.3, 0.7])
    score = score.model_copy(update={"correct": 0.5 if right else None, "incorrect": None if right else 0.5})
    of_samples = (table[column].to_numpy() for column in ("label", "prediction", "group"))
    metrics = split_metrics(*of_samples, 2, record.evaluation["groups"], record.evaluation["train_group_counts"])
    record = record.model_copy(update={"metrics": {"test": metrics.model_copy(update={"epg": {"gradcam": score}})}})
    store = Store(tmp_path / "store")
    assert check_record(store, store.write(record, {name: (tmp_path / name).read_bytes()})) == []


@pytest.fixture
def with_epochs(tmp_path, sound_run_with_epochs):
    store = Store(tmp_path / "epochs")
    return store, store.write(*sound_run_with_epochs)


def test_what_each_selector_reports_follows_from_its_epoch(with_epochs):
    store, path = with_epochs
    assert check_record(store, path) == []


def test_epochs_are_matched_by_the_samples_place_and_not_by_the_order_of_the_file(with_epochs):
    store, path = with_epochs
    epochs = path.with_suffix(".epochs.parquet")
    table = pd.read_parquet(epochs)
    table.sort_values(["epoch", "split", "index"], ascending=[True, False, False]).to_parquet(epochs)
    with_new_checksums(store, path)
    assert check_record(store, path) == []


def test_an_epoch_that_is_no_candidate_is_not_chosen(with_epochs):
    store, path = with_epochs
    epochs = path.with_suffix(".epochs.parquet")
    table = pd.read_parquet(epochs)
    table["candidate"] = table["epoch"] == 0
    table.to_parquet(epochs)
    with_new_checksums(store, path)
    problems = check_record(store, path)
    for selector in ("val_accuracy", "last"):
        assert f"record {path}: selectors.{selector}.epoch: the record says 1, its predictions give 0" in problems


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("val_accuracy", "test", "accuracy"), 0.7),
        (("last", "val", "class_balanced_accuracy"), 0.6),
        (("val_worst_group_accuracy", "test", "worst_group_accuracy"), 0.5),
    ],
)
def test_an_edited_selector_is_caught(with_epochs, keys, value):
    store, path = with_epochs
    edit(path, "selectors", *keys, value=value)
    # That of the record's own selector contradicts the record's metrics as well.
    problems = check_record(store, path)
    assert problems
    assert all(f"selectors.{'.'.join(keys)}: the record says {value}" in problem for problem in problems)


def test_another_epoch_than_the_selectors_is_caught(with_epochs):
    store, path = with_epochs
    edit(path, "selected", "epoch", value=0)
    (problem,) = check_record(store, path)
    assert "selected: the record says" in problem


def test_an_epoch_that_the_selector_does_not_choose_is_caught(with_epochs):
    """Epoch 0 with all of its numbers right, as if it had been the best."""
    store, path = with_epochs
    content = json.loads(path.read_text())
    at_0 = content["selectors"]["val_worst_group_accuracy"]
    content["selectors"]["val_accuracy"] = {**at_0, "uses_groups": False}
    content["selected"]["epoch"] = 0
    del content["selectors"]["last"]
    path.write_text(json.dumps(content))
    problems = check_record(store, path)
    assert any("selectors.val_accuracy.epoch: the record says 0, its predictions give 1" in text for text in problems)
    assert any("selectors.last: missing" in text for text in problems)


def with_new_checksums(store, path):
    """What a careful forger does: the checksums fit the changed files again."""
    content = json.loads(path.read_text())
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


def test_a_removed_sample_is_caught_with_and_without_its_checksum(with_epochs):
    store, path = with_epochs
    predictions = path.with_suffix(".predictions.parquet")
    pd.read_parquet(predictions).drop(index=15).to_parquet(predictions)
    assert any("sha256" in problem for problem in check_record(store, path))
    with_new_checksums(store, path)
    problems = check_record(store, path)
    assert any("metrics.test.n: the record says 8, its predictions give 7" in problem for problem in problems)
    assert any("epoch 0 has 8 predictions of 'test', not 7" in problem for problem in problems)


def test_a_swapped_file_is_caught_with_and_without_its_checksum(with_epochs):
    store, path = with_epochs
    predictions, epochs = path.with_suffix(".predictions.parquet"), path.with_suffix(".epochs.parquet")
    content = predictions.read_bytes()
    predictions.write_bytes(epochs.read_bytes())
    epochs.write_bytes(content)
    assert sum("sha256" in problem for problem in check_record(store, path)) == 2
    with_new_checksums(store, path)
    assert any("lacks the columns" in problem for problem in check_record(store, path))


def test_a_record_from_the_future_is_named_with_the_mend(stored):
    store, path = stored
    edit(path, "schema", value=2)
    (problem,) = check_record(store, path)
    assert "schema version 2 is unknown, this aimbench reads 1; use the version of aimbench that wrote it" in problem


def test_a_method_name_with_markup_is_no_record(stored):
    store, path = stored
    edit(path, "method", "name", value="<b>erm</b>")
    (problem,) = check_record(store, path)
    assert "it was edited" in problem


def test_every_committed_record_follows_from_its_predictions():
    committed = Store(Path(__file__).parents[2] / "results")
    assert [problem for path in committed.paths() for problem in check_record(committed, path)] == []
