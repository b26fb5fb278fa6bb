import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimbench.cli.results import app
from aimbench.results.build import build_tables, outdated
from aimbench.results.store import Store

COMMITTED = Path(__file__).parents[2] / "results"


def test_the_committed_tables_follow_from_the_committed_records():
    assert outdated(COMMITTED) == [], "run 'aimbench results build' and commit results/tables"


@pytest.fixture
def root(tmp_path, make_record):
    store = Store(tmp_path)
    for record in [make_record(), make_record(seed=1), make_record(kind="partial"), make_record(variant="100")]:
        store.write(record)
    return tmp_path


def test_a_variant_has_one_file_a_format_with_command_and_record_ids(root, make_record):
    names = [path.name for path in build_tables(root)]
    assert names == [f"waterbirds@{v}.{suffix}" for v in ("100", "95") for suffix in ("csv", "json", "md", "tex")]
    for suffix in ("md", "tex", "json", "csv"):
        text = (root / "tables" / f"waterbirds@95.{suffix}").read_text()
        assert make_record().id in text
        assert "aimbench results table --dataset waterbirds@95 --id table-" in text
    # Official and partial runs share a file, never a table.
    assert (root / "tables" / "waterbirds@95.md").read_text().count("| Method |") == 2
    assert len(json.loads((root / "tables" / "waterbirds@95.json").read_text())["tables"]) == 2
    with (root / "tables" / "waterbirds@95.csv").open(newline="") as file:
        assert {row["kind"] for row in csv.DictReader(file)} == {"official", "partial"}


def test_the_command_in_a_table_makes_that_table(root):
    build_tables(root)
    text = (root / "tables" / "waterbirds@95.md").read_text()
    command = next(part for part in text.split("`") if part.startswith("aimbench results table"))
    made = CliRunner().invoke(app, [*command.split()[2:], "--results", str(root), "--format", "md"])
    assert made.output.strip() in text
    assert made.output.count("| Method |") == 1


def test_building_twice_changes_nothing(root):
    before = {path: path.read_bytes() for path in build_tables(root)}
    assert {path: path.read_bytes() for path in build_tables(root)} == before
    assert outdated(root) == []


@pytest.mark.parametrize("suffix", ["md", "csv", "json", "tex"])
def test_an_edited_table_fails_the_check(root, suffix):
    build_tables(root)
    path = root / "tables" / f"waterbirds@95.{suffix}"
    path.write_text(path.read_text().replace("8", "9", 1))
    assert outdated(root) == [path]
    result = CliRunner().invoke(app, ["build", "--check", "--results", str(root)])
    assert result.exit_code == 1
    assert f"{path} differs" in result.stderr


def test_a_new_record_and_a_table_without_records_fail_the_check_until_built(root, make_record):
    build_tables(root)
    Store(root).write(make_record(method="aim"))
    stale = root / "tables" / "cub@standard.md"
    stale.write_text("left over")
    other = root / "tables" / "README.md"
    other.write_text("not ours")
    assert {path.stem for path in outdated(root)} == {"waterbirds@95", "waterbirds@95.evidence", "cub@standard"}
    build_tables(root)
    assert outdated(root) == []
    assert not stale.exists()
    assert other.exists()
