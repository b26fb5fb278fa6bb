"""Fixtures for tests of the training loop."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimbench.cli import main
from aimbench.train import registry
from aimbench.train.api import Method, Regime, register_method


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Method]]:
    """Registers a method for one test, in place of one that the test registered before."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    def register(cls: type[Method], train: str = "class") -> type[Method]:
        registry._registered.pop("made_up", None)
        return register_method("made_up", regime=Regime(train=train), source="a test")(cls)  # type: ignore[arg-type]

    return register


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line as ``aimbench WORDS``; returns (status, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aimbench", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def evaluate(
    mini_root: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Calls ``aimbench evaluate`` on a mini; returns (status, record or None, standard error)."""
    monkeypatch.setattr("aimbench.train.as_is.cpu_split", lambda workers, on_gpu: (1, 0))

    def call(
        *words: str, dataset: str = "waterbirds@mini", size: int | None = 64
    ) -> tuple[int, dict[str, Any] | None, str]:
        fixed = ["--dataset", dataset, "--data", str(mini_root), "--results", str(tmp_path / "results")]
        fixed += ["--image-size", str(size)] if size else []
        status, out, error = command("evaluate", *fixed, *words)
        assert "Traceback" not in error
        return status, json.loads(Path(out.strip()).read_text()) if out.strip() else None, error

    return call
