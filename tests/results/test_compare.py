"""Comparisons whose numbers follow by hand from eight predictions."""

import io
import math

import pandas as pd
import pytest
from scipy.stats import norm, ttest_ind
from typer.testing import CliRunner

from aimbench.cli import app
from aimbench.errors import DataError, RecordError
from aimbench.results.compare import compare, same_but_for_seed
from aimbench.results.compare_text import comparison_lines
from aimbench.results.store import Store

LABEL, GROUP = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]
ALL_RIGHT, HALF = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 1, 0]


def parquet(table):
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def add(store, make_record):
    def add(method, prediction, *, keys=None, epg=None, seed=0, further=(), **changes):
        record = make_record(method=method, seed=seed, **changes)
        keys = keys or [f"bird{i}" for i in range(8)]
        columns = {"split": "test", "key": keys, "label": LABEL, "group": GROUP, "prediction": prediction}
        if epg is not None:
            columns["epg_gradcam"] = epg
        columns |= dict(further)
        store.write(record, {f"{record.id}.predictions.parquet": parquet(pd.DataFrame(columns))})
        return store.get(record.id)

    return add


def test_single_runs_by_hand(store, add):
    one = add("aim", ALL_RIGHT, epg=[0.5] * 7 + [None])
    other = add("erm", HALF, epg=[0.3] * 6 + [None, 0.1])
    found = compare(store, [one], [other])
    metrics = {metric.name: metric for metric in found.metrics}
    assert metrics["accuracy"].first == 1.0
    assert metrics["accuracy"].difference.value == pytest.approx(4 / 8)
    assert metrics["worst-group accuracy"].second == 0.0
    assert metrics["worst-group accuracy"].difference.value == 1.0  # of 'waterbird on land', not of all samples
    # EPG over the six samples that both have.
    assert metrics["EPG gradcam"].n == 6
    assert metrics["EPG gradcam"].difference.value == pytest.approx(0.2)
    assert (found.test.first_only, found.test.second_only) == (4, 0)
    assert found.test.p_value == pytest.approx(2 / 2**4)  # four coins, all on one side
    assert [(g.name, g.first, g.second) for g in found.groups] == [
        ("waterbird on land", 1.0, 0.0),
        ("landbird on water", 1.0, 0.5),
        ("waterbird on water", 1.0, 0.5),
        ("landbird on land", 1.0, 1.0),
    ]
    assert "p (McNemar, Holm)" in "\n".join(comparison_lines(found))
    assert found.groups[0].p_value == pytest.approx(1.0)  # 2 / 2**2, times four groups, at most 1
    assert found.samples.index.tolist() == ["bird3", "bird4", "bird5", "bird7"]
    assert found.samples[["first", "second", "difference"]].to_numpy().tolist() == [[1.0, 0.0, 1.0]] * 4
    assert found.differing == ("method.name aim / erm",)


def test_samples_are_matched_by_key_not_by_place(store, add):
    one = add("aim", ALL_RIGHT)
    order = [7, 6, 5, 4, 3, 2, 1, 0]
    record = add("erm", ALL_RIGHT)
    table = pd.DataFrame(
        {"split": "test", "key": [f"bird{i}" for i in order], "label": [LABEL[i] for i in order],
         "group": [GROUP[i] for i in order], "prediction": [HALF[i] for i in order]}
    )  # fmt: skip
    store.write(record, {f"{record.id}.predictions.parquet": parquet(table)}, replace=True)
    assert compare(store, [one], [store.get(record.id)]).samples.index.tolist() == ["bird3", "bird4", "bird5", "bird7"]


def test_epg_by_masks_is_not_held_against_epg_by_boxes(store, add, make_metrics):
    def found(seed, *regions):
        metrics = [{"test": make_metrics().model_copy(update={"epg_region": region})} for region in regions]
        one = add("aim", ALL_RIGHT, epg=[0.5] * 8, seed=seed, metrics=metrics[0])
        return compare(store, [one], [add("erm", HALF, epg=[0.3] * 8, seed=seed, metrics=metrics[1])])

    assert [metric.name for metric in found(0, "boxes", "boxes").metrics][-1] == "EPG gradcam"
    apart = found(1, "mask", "boxes")
    assert [metric.name for metric in apart.metrics] == ["accuracy", "worst-group accuracy"]
    assert "EPG     not compared: one side counts the boxes and one the mask as the object" in comparison_lines(apart)


def test_sets_of_seeds(store, add):
    one = [add("aim", ALL_RIGHT, seed=seed) for seed in (0, 1)]
    other = [add("erm", HALF, seed=0), add("erm", ALL_RIGHT, seed=1)]
    assert same_but_for_seed(store, one[1]) == one
    found = compare(store, one, other)
    assert found.metrics[0].second == pytest.approx(0.75)
    assert found.metrics[0].seeds_p_value is not None
    assert set(found.samples["second"]) == {0.5}
    text = "\n".join(comparison_lines(found))
    assert "over samples and seeds" in text
    # Samples of one run move together, so that a test over samples would take a seed's luck for a difference.
    assert found.test is None
    assert "exact paired test" not in text
    assert "p (over samples and seeds, Holm)" in text
    water = next(g for g in found.groups if g.name == "waterbird on land")
    # The second side's runs are right on none and all: t = 0.5 / 0.5 of 1 degree, p = 1/2, times four groups.
    assert water.p_value == pytest.approx(1.0)
    # Where no run is wrong, on either side, there is no noise, nor a difference.
    assert {group.p_value for group in found.groups} == {1.0}
    # Two samples of which one side has both right in every run, the other none: nothing varies that could be a measure.
    alone = {group.name: group for group in compare(store, one, other[:1]).groups}
    assert alone["waterbird on land"].p_value is None
    assert alone["landbird on land"].p_value == 1.0
    # One of two: the mean of the samples' differences is its own deviation; times the three groups that vary.
    assert alone["landbird on water"].p_value == pytest.approx(min(1.0, 3 * 2 * norm.sf(0.5 / math.sqrt(0.5 / 2))))
    assert "(Welch)" in text


def test_between_seeds_it_is_welchs_test_of_the_runs(store, add):
    # The runs' accuracies are 1 and 7/8 against 4/8 and 5/8, those of their worst groups 1 and 1/2 against 0 and 1/2.
    seven, five = [0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 1, 1, 0]
    one = [add("aim", ALL_RIGHT, seed=0), add("aim", seven, seed=1)]
    other = [add("erm", HALF, seed=0), add("erm", five, seed=1)]
    metrics = {metric.name: metric for metric in compare(store, one, other).metrics}
    expected = ttest_ind([1, 7 / 8], [4 / 8, 5 / 8], equal_var=False).pvalue
    assert metrics["accuracy"].seeds_p_value == pytest.approx(expected)
    worst = ttest_ind([1, 1 / 2], [0, 1 / 2], equal_var=False).pvalue
    assert metrics["worst-group accuracy"].seeds_p_value == pytest.approx(worst)


def test_the_references_of_epg_are_not_compared(store, add):
    references = {"epg_uniform": [0.2] * 8, "epg_centre_gaussian": [0.3] * 8}
    one = add("aim", ALL_RIGHT, epg=[0.5] * 8, further=references)
    other = add("erm", HALF, epg=[0.3] * 8, further=references)
    names = [metric.name for metric in compare(store, [one], [other]).metrics]
    assert names == ["accuracy", "worst-group accuracy", "EPG gradcam"]


def test_the_largest_difference_stands_first_whichever_side_it_favours(store, add):
    one = [add("erm", HALF, seed=0), add("erm", [0, 0, 0, 1, 1, 0, 1, 1], seed=1)]
    other = [add("aim", ALL_RIGHT, seed=0), add("aim", ALL_RIGHT, seed=1)]
    found = compare(store, one, other)
    # Right in both, one or none of the first side's runs: bird3 and bird5 in none, bird4 and bird7 in one.
    assert found.samples["difference"].to_dict() == {"bird3": -1.0, "bird5": -1.0, "bird4": -0.5, "bird7": -0.5}
    assert found.samples.index.tolist() == ["bird3", "bird5", "bird4", "bird7"]
    assert [(g.name, g.first - g.second) for g in found.groups] == [
        ("waterbird on land", -0.75),
        ("landbird on water", -0.5),
        ("waterbird on water", -0.25),
        ("landbird on land", 0.0),
    ]


def test_groups_keep_their_names_where_one_has_no_sample(store, add):
    groups = {"group": [0, 0, 2, 2, 2, 2, 3, 3]}
    found = compare(store, [add("aim", ALL_RIGHT, further=groups)], [add("erm", HALF, further=groups)])
    assert {group.name: group.n for group in found.groups} == {
        "landbird on land": 2,
        "waterbird on land": 4,
        "waterbird on water": 2,
    }


def test_a_setting_that_came_later_is_compared_with_what_runs_had_before(store, add):
    now = add("aim", ALL_RIGHT, config={"smooth_start": "identity", "smooth_lr_factor": 1.0})
    before, said = add("aim", HALF, config={}), add("aim", HALF, config={"smooth_start": "random"}, seed=1)
    assert compare(store, [now], [before]).differing == ("method.config.smooth_start identity / random",)
    assert same_but_for_seed(store, before) == [before, said]


def test_refuses_what_is_not_paired(store, add):
    one = add("aim", ALL_RIGHT)
    with pytest.raises(RecordError, match="needs the same samples"):
        compare(store, [one], [add("erm", HALF, fingerprint="0" * 64)])
    with pytest.raises(RecordError, match="prediction of sample 'bird0'"):
        compare(store, [one], [add("erm", HALF, keys=[f"bird{i}" for i in range(1, 9)])])
    fewer = {"key": [f"bird{i}" for i in range(7)], "label": LABEL[:7], "group": GROUP[:7], "prediction": HALF[:7]}
    few = add("jtt", HALF, further=fewer)
    for sides in ([few], [one]), ([one], [few]):
        with pytest.raises(RecordError, match=f"{one.id} has a prediction of sample 'bird7', record {few.id} has none"):
            compare(store, *sides)
    with pytest.raises(RecordError, match="comes more than once"):
        compare(store, [one], [add("erm", HALF, seed=3, keys=["bird1"] * 8)])
    with pytest.raises(RecordError, match=r"more than their seed \(method.name aim / erm\)"):
        compare(store, [one, add("erm", HALF, seed=4)], [one])
    with pytest.raises(RecordError, match="named more than once"):
        compare(store, [one, one], [one])
    with pytest.raises(RecordError, match="no predictions of 'tset'; did you mean 'test'"):
        compare(store, [one], [add("erm", HALF)], "tset")
    (store.records / "waterbirds" / f"{one.id}.predictions.parquet").write_bytes(b"edited")
    with pytest.raises(RecordError, match="changed after the run"):
        compare(store, [one], [add("erm", HALF)])


def test_a_run_is_not_compared_with_itself(store, add):
    one, other = add("aim", ALL_RIGHT), add("aim", HALF, seed=1)
    with pytest.raises(RecordError, match=f"record {one.id} is on both sides; compare it with another"):
        compare(store, [one], [one, other])


def test_a_dataset_to_draw_from_is_looked_for_before_the_tests(store, add, tmp_path):
    ids = [add("aim", ALL_RIGHT).id, add("erm", HALF).id]
    words = ["results", "compare", *ids, "--draw", str(tmp_path / "differ.png"), "--data", str(tmp_path / "none")]
    done = CliRunner().invoke(app, [*words, "--results", str(store.root)])
    assert isinstance(done.exception, DataError)
    assert done.stdout == ""


def test_command_line(store, add, tmp_path):
    add("aim", ALL_RIGHT, seed=0)
    add("aim", ALL_RIGHT, seed=1)
    other = add("erm", HALF)
    csv = tmp_path / "differ.csv"
    one = store.find(method="aim")[0].id
    words = ["results", "compare", one, other.id, "--all-seeds", "--csv", str(csv), "--results", str(store.root)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "accuracy                    100.0    50.0       +50.0" in done.output
    assert "first alone right on" not in done.output
    single = CliRunner().invoke(app, ["results", "compare", one, other.id, "--results", str(store.root)])
    assert "first alone right on 4 samples, second on 0" in single.output
    assert len(pd.read_csv(csv)) == 4


def test_settings_that_differ_are_named_with_both_values(store, add):
    one = add("erm", ALL_RIGHT, training={"train": "head", "epochs": 20, "lr": 0.001})
    other = add("erm", HALF, training={"train": "head", "epochs": 20, "lr": 0.003, "augment": True})
    assert compare(store, [one], [other]).differing == ("training.lr 0.001 / 0.003", "training.augment - / True")
    absent = add("erm", HALF, training={"train": "head", "epochs": 20, "lr": 0.001, "grad_clip": None})
    assert compare(store, [one], [absent]).differing == ("training.grad_clip - / None",)
