"""What has changed since a record or a checkpoint was made is said."""

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aimbench.train import method_source
from aimbench.train.claim import claim
from aimbench.train.loop import Trainer
from aimbench.train.method_source import is_of_other_source, source_hash

OPTIONS = ["--backbone", "test_convnext.r160_in1k", "--weights", "none", "--image-size", "64", "--epochs", "1"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a method, of a module that it imports, and of one that it does not."""
    folder = tmp_path / "outside_method"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text("from . import loss\nfrom outside_method.parts import Part\nimport json\n")
    (folder / "loss.py").write_text("X = 1\n")
    (folder / "parts.py").write_text("class Part: ...\n")
    (folder / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("outside_method")]:
        del sys.modules[name]  # looking for modules has imported their packages
    source_hash.cache_clear()


@pytest.mark.parametrize(("changed", "differs"), [("method", True), ("loss", True), ("parts", True), ("unused", False)])
def test_a_method_is_its_module_and_what_that_imports(changed: str, differs: bool, package: Path) -> None:
    importlib.invalidate_caches()
    source_hash.cache_clear()
    before = source_hash("outside_method.method")
    with (package / f"{changed}.py").open("a") as file:
        file.write("Y = 2\n")
    source_hash.cache_clear()
    assert (source_hash("outside_method.method") != before) == differs


def test_a_package_is_what_its_own_file_imports(package: Path) -> None:
    (package / "__init__.py").write_text("from .loss import X\n")
    importlib.invalidate_caches()
    source_hash.cache_clear()
    before = source_hash("outside_method")
    (package / "loss.py").write_text("X = 2\n")
    source_hash.cache_clear()
    assert source_hash("outside_method") != before


def lines(files: dict[str, Path]) -> str:
    return "".join(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for name, path in files.items())


def test_the_hash_is_that_of_the_records_there_are(package: Path) -> None:
    """Modules by name with the sha256 of each; the house's own code, which every method imports, is none of them."""
    importlib.invalidate_caches()
    source_hash.cache_clear()
    files = {
        "outside_method": package / "__init__.py",
        "outside_method.loss": package / "loss.py",
        "outside_method.method": package / "method.py",
        "outside_method.parts": package / "parts.py",
    }
    assert source_hash("outside_method.method") == hashlib.sha256(lines(files).encode()).hexdigest()
    erm = importlib.import_module("aimbench.baselines.erm")
    files = {"aimbench.baselines.erm": Path(str(erm.__file__))}
    assert source_hash("aimbench.baselines.erm") == hashlib.sha256(lines(files).encode()).hexdigest()


def test_a_record_that_keeps_no_source_is_not_said_to_be_of_another() -> None:
    assert not is_of_other_source("erm", None)
    assert not is_of_other_source("erm", source_hash("aimbench.baselines.erm"))
    assert is_of_other_source("erm", "0" * 64)


@pytest.fixture
def run_erm(mini_root: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    roots = ["--data", str(mini_root), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    words = ["run", "--method", "erm", "--dataset", "waterbirds@mini", "--epg-samples", "4", "--device", "cpu"]
    return lambda *more: command(*words, *OPTIONS, *roots, *more)


def test_a_record_of_other_source_is_said_to_be_one(
    run_erm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_erm()[0] == 0
    assert "has changed" not in run_erm()[2]
    monkeypatch.setattr(method_source, "source_hash", lambda module: "other")
    status, _, error = run_erm()
    assert status == 0
    assert "the source of method 'erm' has changed since that record was made" in " ".join(error.split())


def test_a_run_that_goes_on_with_other_source_says_so_and_its_record_names_none(
    experiment: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(self: Trainer) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "final_predictions", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment("erm").run()
    with monkeypatch.context() as patch:
        patch.setattr("aimbench.train.experiment.source_hash", lambda module: "other")
        record = experiment("erm").run().record
    assert record.code.method_source is None
    assert "goes on with both" in " ".join(capsys.readouterr().err.split())
    fresh = experiment("erm").run(fresh=True).record
    assert fresh.code.method_source == source_hash("aimbench.baselines.erm")


def test_of_a_run_begun_before_folders_kept_the_source_it_is_unknown(experiment: Callable[..., Any]) -> None:
    trial = experiment("erm")
    trial.run()
    (trial.folder / "method_source").unlink()
    assert trial.is_started
    assert experiment("erm").run().record.code.method_source is None
    fresh = experiment("erm").run(fresh=True).record
    assert fresh.code.method_source == source_hash("aimbench.baselines.erm")


def test_a_run_is_refused_while_another_process_runs_it(run_erm: Callable[..., Any], tmp_path: Path) -> None:
    assert run_erm()[0] == 0
    (record,) = (tmp_path / "results").rglob("*.json")
    with claim(tmp_path / "runs", record.stem):
        status, _, error = run_erm("--rerun")
    assert status == 2
    assert f"another process is running {record.stem}" in error
    assert run_erm("--rerun")[0] == 0
