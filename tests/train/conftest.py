"""Fixtures for tests of the training loop."""

from collections.abc import Callable

import pytest

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
