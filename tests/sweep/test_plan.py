"""What a plan's settings expand to, and what its author is told when it is wrong."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from aimbench.errors import ConfigError
from aimbench.sweep.plan import Plan, read_plan

PLANS = Path(__file__).parents[2] / "plans"


def plan(**changes: Any) -> Plan:
    return Plan.model_validate(
        {"name": "p", "methods": [{"method": "erm"}], "datasets": ["waterbirds@mini"], **changes}
    )


def test_grid_is_every_combination() -> None:
    found = plan(
        methods=[{"method": "aim", "settings": {"active_area": [0.2, 0.3]}, "training": {"lr": [1, 2, 3]}}],
        training={"epochs": 4},
    )
    points = found.points(found.methods[0])
    expected = [
        ({"active_area": area}, {"epochs": 4, "lr": lr}) for area, lr in itertools.product([0.2, 0.3], [1, 2, 3])
    ]
    assert points == expected


def test_a_methods_training_goes_over_the_plans() -> None:
    found = plan(methods=[{"method": "erm", "training": {"lr": 7}}], training={"lr": [1, 2]})
    assert found.points(found.methods[0]) == [({}, {"lr": 7})]


def test_draws_are_distinct_repeatable_in_range_and_begin_with_the_first_choices() -> None:
    space = {"lr": {"log_uniform": [1e-4, 1e-2]}, "batch_size": [64, 32, 16], "weight_decay": {"uniform": [0, 1]}}
    found = plan(training=space, search={"trials": 40})
    points = found.points(found.methods[0])
    assert points == found.points(found.methods[0])
    assert len({str(point) for point in points}) == 40
    assert points[0] == ({}, {"lr": 1e-3, "batch_size": 64, "weight_decay": 0.5})
    assert all(1e-4 <= training["lr"] <= 1e-2 and 0 <= training["weight_decay"] <= 1 for _, training in points)
    below = sum(training["lr"] < 1e-3 for _, training in points)
    assert 10 <= below <= 30, "log-uniform: half of the draws lie below the geometric middle"


def test_a_space_smaller_than_its_trials_is_taken_whole() -> None:
    found = plan(training={"lr": [1, 2]}, search={"trials": 6})
    assert [training["lr"] for _, training in found.points(found.methods[0])] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"datasets": []}, "datasets"),
        ({"wrong": 1}, "wrong"),
        ({"name": "../p"}, "name"),
        ({"training": {"lr": []}}, "'lr' is an empty list"),
        ({"training": {"lr": {"uniform": [0, 1]}}}, "only search.kind: random can draw"),
        ({"training": {"lr": {"normal": [0, 1]}}, "search": {"trials": 2}}, "write one of uniform, log_uniform"),
        ({"training": {"lr": {"log_uniform": [0, 1]}}, "search": {"trials": 2}}, "above 0"),
        ({"training": {"lr": {"uniform": [1]}}, "search": {"trials": 2}}, r"needs \[low, high\]"),
        ({"search": {"trials": 0}}, "search.trials"),
        ({"methods": [{"method": "erm", "datasets": ["waterbirds"]}]}, "none of the plan's datasets"),
        ({"seeds": [0, 1, 0]}, "seeds names 0 more than once"),
        ({"datasets": ["cub", "cub"]}, "datasets names cub more than once"),
        (
            {"methods": [{"method": "erm", "setings": {}}], "search": {"trial": 2}, "seds": [1]},
            "'methods.1.setings' .*did you mean 'settings'.*'search.trials' is missing.*'search.trial' .*'trials'"
            ".*'seds' .*'seeds'",
        ),
    ],
)
def test_a_wrong_plan_is_one_line_that_names_the_place(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "methods": [{"method": "erm"}], "datasets": ["cub"], **changes}))
    with pytest.raises(ConfigError, match=expected) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# to be written\n", "- erm\n"])
def test_a_file_without_fields_is_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.yaml is empty or not a mapping; write the fields of a plan into it"):
        read_plan(path)


def test_a_grid_of_another_size_than_the_search_is_refused() -> None:
    found = plan(training={"lr": [1, 2, 3]}, search={"kind": "grid", "trials": 2})
    with pytest.raises(ConfigError, match="3 combinations, not the 2 trials"):
        found.points(found.methods[0])


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_plans_give_every_method_the_same_number_of_trials(path: Path) -> None:
    found = read_plan(path)
    assert found.name == path.stem
    if found.search is not None:
        assert {len(found.points(method)) for method in found.methods} == {found.search.trials}


def test_the_baselines_have_the_same_settings_on_either_dataset() -> None:
    waterbirds, travelingbirds = (
        read_plan(PLANS / f"{name}.yaml") for name in ("baselines", "baselines_travelingbirds")
    )
    there = {method.method: method for method in waterbirds.methods}
    # Undefined where no place is seen with two classes.
    assert set(there) - {method.method for method in travelingbirds.methods} == {"irm", "lisa"}
    assert all(method == there[method.method] for method in travelingbirds.methods)
    assert waterbirds.training == travelingbirds.training
    assert waterbirds.search == travelingbirds.search
