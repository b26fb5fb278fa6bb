"""``aimbench`` as a user types it, in a process of its own or through ``main``."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aimbench.cli import app, main

QUICK = ["--backbone", "convnext_atto", "--weights", "none", "--image-size", "64", "--epochs", "1", "--device", "cpu"]


def aimbench(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Calls the entry point; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["aimbench", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("words", [["--help"], ["list", "methods"], ["list", "datasets"]])
def test_what_answers_at_once_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from aimbench.cli import app; from typer.testing import CliRunner\n"
        f"assert CliRunner().invoke(app, {words}).exit_code == 0\n"
        "heavy = ('torch', 'torchvision', 'numpy', 'pandas', 'pyarrow', 'timm', 'webdataset', 'matplotlib', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["run", "--method", "amm", "--dataset", "waterbirds@mini"], "torch"),
        (["run", "--method", "erm", "--dataset", "waterbird@mini"], "torch"),
        (["run", "--method", "erm", "--dataset", "waterbirds@mini", "--set", "x=1"], "timm"),
        (["run", "--method", "erm", "--dataset", "waterbirds@mini", "--epochs", "0"], "timm"),
        (["explain", "none-000"], "torch"),
        (["probe", "none-000"], "torch"),
    ],
)
def test_a_wrong_word_is_answered_before_what_is_heavy_is_imported(words: list[str], heavy: str) -> None:
    code = (
        "import sys; from aimbench.cli import app; from typer.testing import CliRunner\n"
        f"error = CliRunner().invoke(app, {words}).exception\n"
        f"print(type(error).__name__, {heavy!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["ConfigError", "False"], ["CardError", "False"])


@pytest.mark.parametrize(("words", "times"), [(["--help"], 2.0), (["list", "methods"], 3.0)])
def test_answers_in_time(words: list[str], times: float) -> None:
    # Against what the libraries of every answer cost in the same moments: a busy machine slows both.
    libraries = [sys.executable, "-c", "import typer, typer.rich_utils, pydantic, yaml"]
    program = [str(Path(sys.executable).with_name("aimbench")), *words]
    costs = [(_processor_seconds(libraries), _processor_seconds(program)) for _ in range(5)]
    assert min(ours for _, ours in costs) < times * min(theirs for theirs, _ in costs)


def _processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", ["run", "sweep", "evaluate", "probe", "explain", "demo", "data", "list", "results"])
def test_every_command_has_help_that_names_its_environment_variables(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    if command in ("run", "sweep", "explain"):
        assert "(env: AIMBENCH_DATA)" in result.output
        assert "(env: AIMBENCH_RUNS)" in result.output


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--method", "amm"], "unknown method 'amm': did you mean 'aim'"),
        (["--dataset", "waterbird"], "unknown dataset 'waterbird'; did you mean 'waterbirds'"),
        (["--backbone", "convnext_ato"], "did you mean 'convnext_atto"),
        (["--set", "standardise=true"], "has no setting 'standardise': did you mean 'standardize'"),
        (["--set", "standardize"], "--set standardize: write key=value"),
        (["--set", "standardize=[1"], "--set standardize=[1: '[1' is no plain value"),
        (["--set", "standardize=[red]"], "'[red]'|['red']"),
        (["--optimizer", "adam"], "training setting 'optimizer': Input should be 'adamw' or 'sgd' (got 'adam')"),
        (["--train", "haed"], "training setting 'train': Input should be 'head', 'last' or 'all' (got 'haed')"),
        (["--attributions", "gradcam,smoothgrda"], "unknown attribution 'smoothgrda': did you mean 'smoothgrad'"),
        (["--device", "gpu"], "--device gpu: give auto, cpu or cuda"),
        (["--selector", "lats"], "unknown selector 'lats': did you mean 'last'"),
        (["--weights", "absent.pt"], "weights file absent.pt does not exist"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_status_2(
    changes: list[str],
    expected: str,
    mini_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = {"--method": "erm", "--dataset": "waterbirds@mini", "--data": str(mini_root), "--runs": str(tmp_path)}
    words |= {"--results": str(tmp_path / "results"), "--backbone": "convnext_atto", "--weights": "none"}
    words |= dict([changes])
    assert aimbench("run", *(w for pair in words.items() for w in pair), monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in expected.split("|")), error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_results_folder_that_cannot_be_written(
    mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    words = ["run", "--method", "erm", "--dataset", "waterbirds@mini", "--data", str(mini_root)]
    words += ["--results", str(tmp_path / "file" / "results"), "--runs", str(tmp_path / "runs"), *QUICK]
    assert aimbench(*words, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()  # found out before anything was trained


def test_run_then_table_then_explain(
    mini_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs"
    common = ["--data", str(mini_root), "--runs", str(runs)]
    words = ["run", "--method", "aim", "--dataset", "travelingbirds@mini", "--results", str(results), *common]
    words += ["--epg-samples", "16", *QUICK]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (record_file,) = results.rglob("*.json")
    assert result.stdout.strip().splitlines()[-1] == str(record_file)  # standard output is for the next program
    record = json.loads(record_file.read_text())
    assert record["dataset"]["kind"] == "mini"
    assert {"mask", "gradcam", "input_x_gradient", "uniform", "centre_gaussian"} == set(
        record["metrics"]["test"]["epg"]
    )

    written = record_file.read_bytes()
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0
    assert "is recorded already" in again.output
    assert again.stdout.strip() == str(record_file)
    assert record_file.read_bytes() == written

    search = {"plan": "p", "kind": "grid", "trials": 6, "finished": 6, "trial": record["id"], "score": 0.5}
    record_file.write_text(json.dumps({**record, "search": {**search, "metric": "accuracy"}}))
    assert CliRunner().invoke(app, [*words, "--rerun"], catch_exceptions=False).exit_code == 0
    # How the settings were chosen is still known of a run that was made again.
    assert json.loads(record_file.read_text())["search"]["plan"] == "p"
    assert json.loads(record_file.read_text())["metrics"] == record["metrics"]

    table = CliRunner().invoke(app, ["results", "table", "--results", str(results)], catch_exceptions=False)
    assert table.exit_code == 0, table.output
    assert "aim" in table.output
    assert f"{100 * record['metrics']['test']['accuracy']['value']:.1f}" in table.output

    picture = tmp_path / "picture.png"
    drawn = ["explain", record["id"], "--per-group", "1", "--max-groups", "2", "--out", str(picture), *common]
    assert CliRunner().invoke(app, drawn, catch_exceptions=False).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    by_epg = [*drawn, "--results", str(results), "--by-epg"]
    assert CliRunner().invoke(app, [*by_epg, "gradcam"], catch_exceptions=False).exit_code == 0
    capsys.readouterr()
    assert aimbench(*by_epg, "gradcm", monkeypatch=monkeypatch) == 2
    assert "did you mean 'gradcam'" in capsys.readouterr().err
    kept = record_file.read_text()
    record_file.write_text(json.dumps({**json.loads(kept), "selected": {"phase": "train", "epoch": 40}}))
    assert aimbench(*by_epg, "gradcam", monkeypatch=monkeypatch) == 2
    assert "its record tells of epoch 41" in " ".join(capsys.readouterr().err.split())
    record_file.write_text(kept)
    assert aimbench("explain", record["id"], *common, "--out", str(tmp_path), monkeypatch=monkeypatch) == 2
    assert aimbench("explain", record["id"], *common, "--per-group", "0", monkeypatch=monkeypatch) == 2
    assert aimbench("explain", "none-000", *common, monkeypatch=monkeypatch) == 2
    assert "no run 'none-000' under" in capsys.readouterr().err


def test_an_error_in_a_process_of_its_own_has_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("aimbench"), "run", "--method", "amm", "--dataset", "waterbirds@mini"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "60"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown method 'amm'")
    assert done.stderr.count("\n") == 1


def test_a_run_remembers_the_cards_that_the_environment_names(
    mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = Path(__file__).parents[2] / "docs" / "cards"
    monkeypatch.setenv("AIMBENCH_CARDS", str(cards))
    roots = ["--data", str(mini_root), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    words = ["run", "--method", "erm", "--dataset", "waterbirds@mini", "--epg-samples", "0", *QUICK, *roots]
    assert aimbench(*words, monkeypatch=monkeypatch) == 0
    (request,) = (tmp_path / "runs").rglob("request.json")
    assert json.loads(request.read_text())["cards"] == str(cards)


@pytest.mark.parametrize("words", [["--cache-gb", "inf"], ["--seed", str(2**64)]])
def test_a_number_out_of_range_is_no_traceback(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["run", "--method", "erm", "--dataset", "waterbirds@mini", *words])
    assert result.exit_code == 2
    assert words[0] in result.output
    assert "less than or equal to" in result.output
