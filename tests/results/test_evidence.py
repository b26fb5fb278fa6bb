import csv
import io
import json

import pytest
from typer.testing import CliRunner

from aimbench.cli.results import app
from aimbench.results.digest import digest
from aimbench.results.evidence import make_evidence
from aimbench.results.store import Store
from aimbench.results.tables import make_tables


@pytest.fixture
def records(make_record, make_metrics):
    """Three seeds: ERM 0.50, 0.52, 0.54; AIM gains 0.1, 0.2, 0.3; the oracle gains 0.4 each time."""

    def run(method, seed, wga, **other):
        return make_record(method=method, seed=seed, metrics={"test": make_metrics(wga=wga)}, **other)

    masks = {"train": "masks", "select": "class"}
    found = []
    for seed, gain in enumerate([0.1, 0.2, 0.3]):
        erm = 0.50 + 0.02 * seed
        found += [
            run("erm", seed, erm),
            run("aim", seed, erm + gain),
            run("oracle_mask", seed, erm + 0.4, regime=masks, config={"inverse": False}),
            run("oracle_mask", seed, erm - 0.3, regime=masks, config={"inverse": True}),
        ]
    return found


def evidence_of(records, metric="worst_group_accuracy"):
    runs = [digest(record) for record in records]
    (table,) = make_tables(runs)
    return {(e.row.method, e.row.config): e for e in make_evidence(table, runs) if e.metric == metric}


def test_difference_and_gap_closed_are_as_worked_out_by_hand(records):
    aim = evidence_of(records)["aim", ""]
    assert aim.difference.value == pytest.approx(0.2)
    # Student's t of 2 degrees is 4.303 in printed tables; the gains deviate by 0.1.
    half = 4.303 * 0.1 / 3**0.5
    assert (aim.difference.low, aim.difference.high) == (
        pytest.approx(0.2 - half, abs=1e-4),
        pytest.approx(0.2 + half, abs=1e-4),
    )
    assert aim.gap_closed == pytest.approx(0.5)
    assert aim.gap_in_noise is False
    assert aim.difference.n == 3


def test_the_gain_over_open_masks_is_worked_out_beside_it(records, make_record, make_metrics):
    assert evidence_of(records)["aim", ""].over_control is None
    # 0.05 below ERM in every seed: AIM gains 0.15, 0.25, 0.35 over it.
    control = [
        make_record(method="topdown", seed=s, metrics={"test": make_metrics(wga=0.45 + 0.02 * s)}) for s in range(3)
    ]
    evidence = evidence_of([*records, *control])
    assert evidence["aim", ""].over_control.value == pytest.approx(0.25)
    assert evidence["aim", ""].over_control.n == 3
    assert evidence["topdown", ""].difference.value == pytest.approx(-0.05)
    assert evidence["topdown", ""].over_control is None
    assert evidence["erm", ""].over_control is None


def test_erm_stands_first_and_is_compared_with_nothing(records):
    evidence = evidence_of(records)
    assert next(iter(evidence)) == ("erm", "")
    assert evidence["erm", ""].difference is None
    assert evidence["erm", ""].gap_closed is None


def test_the_oracle_closes_the_gap_and_its_inverse_opens_it(records):
    evidence = evidence_of(records)
    assert evidence["oracle_mask", "inverse=false"].gap_closed == pytest.approx(1)
    assert evidence["oracle_mask", "inverse=true"].gap_closed == pytest.approx(-0.75)


@pytest.mark.parametrize(("lost", "gain", "closed"), [(2, 0.15, 0.375), (0, 0.25, 0.625)])
def test_runs_are_paired_by_seed(lost, gain, closed, records):
    # Without a seed of ERM, only the other two of AIM count: gains 0.1 and 0.2, or 0.2 and 0.3.
    kept = [r for r in records if (r.method.name, r.seed) != ("erm", lost)]
    aim = evidence_of(kept)["aim", ""]
    assert aim.difference.n == 2
    assert aim.difference.value == pytest.approx(gain)
    assert aim.gap_closed == pytest.approx(closed)


def test_a_single_seed_has_no_interval_and_says_that_the_gap_is_uncertain(records):
    aim = evidence_of([r for r in records if r.seed == 0])["aim", ""]
    assert aim.difference.low is None
    assert aim.gap_in_noise is True


def test_no_gap_without_an_oracle_or_with_one_below_erm(records, make_record, make_metrics):
    without = [r for r in records if r.method.name != "oracle_mask"]
    assert evidence_of(without)["aim", ""].gap_closed is None
    low = [
        make_record(method="oracle_mask", seed=seed, regime={"train": "masks"}, metrics={"test": make_metrics(wga=0.1)})
        for seed in range(3)
    ]
    assert evidence_of([*without, *low])["aim", ""].gap_closed is None


@pytest.mark.parametrize(("gains", "noise"), [((0.2, 0.3, 0.5), True), ((0.25, 0.3, 0.35), False)])
def test_a_gap_that_the_seeds_do_not_tell_from_none_is_said_to_be_noise(
    gains, noise, records, make_record, make_metrics
):
    # By hand: 0.333 or 0.3 on average, with deviations of 0.153 and 0.05, so the interval reaches 0.379 or 0.124 below.
    without = [r for r in records if r.method.name != "oracle_mask"]
    oracle = [
        make_record(
            method="oracle_mask",
            seed=seed,
            regime={"train": "masks"},
            metrics={"test": make_metrics(wga=0.50 + 0.02 * seed + gain)},
        )
        for seed, gain in enumerate(gains)
    ]
    assert evidence_of([*without, *oracle])["aim", ""].gap_in_noise is noise


def test_an_inverse_oracle_is_no_ceiling_whatever_it_reaches(records, make_record, make_metrics):
    better = [
        make_record(
            method="oracle_mask",
            seed=seed,
            regime={"train": "masks", "select": "class"},
            config={"inverse": True},
            metrics={"test": make_metrics(wga=0.99)},
        )
        for seed in range(4)
    ]
    kept = [r for r in records if not r.method.config.get("inverse")]
    assert evidence_of([*kept, *better])["aim", ""].gap_closed == pytest.approx(0.5)


def test_a_row_of_other_settings_is_not_compared(records, make_record, make_metrics):
    other = make_record(method="jtt", training={"train": "all", "epochs": 3}, metrics={"test": make_metrics(wga=0.9)})
    jtt = next(e for (method, _), e in evidence_of([*records, other]).items() if method == "jtt")
    assert jtt.difference is None
    assert jtt.gap_closed is None


@pytest.mark.parametrize(("gain", "expected"), [(0.05, 0.15), (-0.05, 0.2)])
def test_of_two_configurations_of_erm_the_stronger_is_held_against(gain, expected, records, make_record, make_metrics):
    second = [
        make_record(
            config={"standardize": True}, seed=seed, metrics={"test": make_metrics(wga=0.50 + 0.02 * seed + gain)}
        )
        for seed in range(3)
    ]
    assert evidence_of([*records, *second])["aim", ""].difference.value == pytest.approx(expected)


def test_an_erm_of_fewer_seeds_is_not_held_against(records, make_record, make_metrics):
    second = make_record(config={"standardize": True}, metrics={"test": make_metrics(wga=0.9)})
    assert evidence_of([*records, second])["aim", ""].difference.value == pytest.approx(0.2)


def test_the_command_shows_it_in_every_format(records, tmp_path):
    for record in records:
        Store(tmp_path).write(record)

    def run(*arguments):
        return CliRunner().invoke(app, ["evidence", "--results", str(tmp_path), *arguments]).stdout

    text = run()
    assert "| WGA | Difference to ERM | To topdown | Gap closed |" in text
    assert "| 72.0 ± 12.0 | +20.0 [-4.8, +44.8] | - | 50 % |" in text
    rows = list(csv.DictReader(io.StringIO(run("--format", "csv"))))
    aim = next(r for r in rows if (r["method"], r["metric"]) == ("aim", "worst_group_accuracy"))
    assert float(aim["gap_closed"]) == pytest.approx(0.5)
    assert len(json.loads(run("--format", "json"))) == len(rows)
    assert run("--format", "latex").count(r"\toprule") == 2
    (tmp_path / "none").mkdir()
    nothing = CliRunner().invoke(app, ["evidence", "--results", str(tmp_path / "none")])
    assert "make a table that holds 'erm'" in nothing.stderr


def test_a_row_whose_rate_trials_chose_is_compared(records, make_record, make_metrics):
    other = make_record(method="jtt", training={"lr": 0.5, "epochs": 3}, metrics={"test": make_metrics(wga=0.9)})
    rate = {"lr": 0.1, "epochs": 3}
    tuned = [record.model_copy(update={"training": rate}) for record in records]
    jtt = next(e for (method, _), e in evidence_of([*tuned, other]).items() if method == "jtt")
    assert jtt.difference is not None


def test_a_row_is_held_against_the_erm_of_its_own_rate_where_there_is_one(make_record, make_metrics):
    def run(method, rate, wga):
        return make_record(method=method, training={"lr": rate}, metrics={"test": make_metrics(wga=wga)})

    runs = [digest(r) for r in (run("erm", 0.1, 0.5), run("erm", 0.5, 0.7), run("aim", 0.1, 0.6))]
    (table,) = make_tables(runs)
    (aim,) = [e for e in make_evidence(table, runs) if e.row.method == "aim" and e.metric == "worst_group_accuracy"]
    assert aim.difference.value == pytest.approx(0.1)
