import pytest

from aimbench.results.ranking import inside_noise, marks
from aimbench.results.render import best_places, render
from aimbench.results.tables import Cell, make_tables


def cell(value, below=0.05, above=0.05):
    return Cell(value, 1, value - below, value + above)


@pytest.mark.parametrize(
    ("better", "worse", "noise"),
    [
        # By hand: the interval of the difference reaches sqrt(0.03^2 + 0.04^2) = 0.05 below it.
        (cell(0.8, below=0.03), cell(0.751, above=0.04), True),
        (cell(0.8, below=0.03), cell(0.749, above=0.04), False),
        # Only the ends that face each other count.
        (cell(0.8, below=0.01, above=0.2), cell(0.7, below=0.2, above=0.01), False),
        (cell(0.8), cell(0.8), True),
    ],
)
def test_noise_is_what_both_intervals_together_allow(better, worse, noise):
    assert inside_noise(better, worse) is noise


def test_each_regime_has_a_best_of_its_own_and_a_lone_row_none():
    column = {0: cell(0.5), 1: cell(0.9), 2: cell(0.88), 3: cell(0.7), 4: cell(0.99)}
    regimes = {0: "class", 1: "groups", 2: "groups", 3: "class", 4: "masks"}
    assert marks(column, regimes) == {1: "best", 2: "noise", 3: "best"}


def test_equals_share_the_first_place():
    assert marks({0: cell(0.5), 1: cell(0.5)}, {0: "class", 1: "class"}) == {0: "best", 1: "best"}


def test_tables_show_the_marks_in_every_format(make_record, make_metrics):
    records = [
        make_record(
            method=name, metrics={"test": make_metrics(accuracy=accuracy, uniform=accuracy, centre_gaussian=accuracy)}
        )
        for name, accuracy in [("erm", 0.5), ("aim", 0.8), ("jtt", 0.78)]
    ]
    (table,) = make_tables(records)
    assert {row.method: row.cells["accuracy"].mark for row in table.rows} == {
        "aim": "best",
        "erm": None,
        "jtt": "noise",
    }
    assert "| **80.0 [75.0, 85.0]** |" in render(table, "md")
    assert "| 78.0 [73.0, 83.0] ≈ |" in render(table, "md")
    assert r"\textbf{80.0 {[}75.0, 85.0{]}}" in render(table, "latex")
    assert r"$\approx$" in render(table, "latex")
    assert ",best," in render(table, "csv")
    assert '"mark": "noise"' in render(table, "json")
    # These two maps are references: no method is the better for them.
    for reference in ("epg_uniform", "epg_centre_gaussian"):
        assert [row.cells[reference].mark for row in table.rows] == [None] * 3
    assert all(line > 0 for line, _ in best_places(table))


def test_rows_of_a_regime_stand_together(make_record):
    groups = {"train": "groups", "select": "class"}
    records = [make_record(method="erm"), make_record(method="dro", regime=groups), make_record(method="aim")]
    (table,) = make_tables([*records, make_record(method="subg", regime=groups)])
    assert [row.method for row in table.rows] == ["aim", "erm", "dro", "subg"]
