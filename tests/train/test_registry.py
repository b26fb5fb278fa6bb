import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from aimbench.errors import ConfigError
from aimbench.train import registry
from aimbench.train.api import Method, Regime, register_method
from aimbench.train.registry import get_method, list_methods

ROOT = Path(__file__).parents[2]

SOURCE = '''
from torch.nn import functional as F
from aimbench.train.api import Method, Regime, register_method


@register_method("{name}", regime=Regime(train="groups", select="val_groups"), source="nowhere")
class Mine(Method):
    """Says nothing new."""

    def loss(self, model, batch, progress):
        return F.cross_entropy(model(batch).logits, batch.label)
'''


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    registry._index.cache_clear()
    yield
    registry._index.cache_clear()
    for name in ("twin", "theirs"):
        registry._registered.pop(name, None)


def test_two_classes_of_one_name_are_refused() -> None:
    @register_method("twin", regime=Regime(), source="a test")
    class First(Method):
        pass

    with pytest.raises(ConfigError, match=r"two methods are called 'twin': .*First and .*Second; rename one"):

        @register_method("twin", regime=Regime(), source="a test")
        class Second(Method):
            pass

    assert get_method("twin") is First


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'amm': did you mean .*'aim'"):
        get_method("amm")


def test_two_modules_that_declare_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mod_one", "mod_two"):
        (tmp_path / f"{module}.py").write_text(SOURCE.format(name="same"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_modules", lambda: iter(["mod_one", "mod_two"]))
    with pytest.raises(ConfigError, match="two methods are called 'same': in mod_one and mod_two"):
        list_methods()


def test_a_file_that_is_no_python_costs_its_own_methods_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mod_sound.py").write_text(SOURCE.format(name="sound"))
    (tmp_path / "mod_broken.py").write_text(SOURCE.format(name="broken") + "\ndef x(:\n")
    (tmp_path / "mod_binary.py").write_bytes(b"\0\0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_modules", lambda: iter(["mod_broken", "mod_binary", "mod_sound"]))
    assert [entry.name for entry in list_methods()] == ["sound"]
    of_broken, of_binary = (record.getMessage() for record in caplog.records)
    assert of_broken.startswith(f"warning: {tmp_path / 'mod_broken.py'}, line 13: ")
    assert str(tmp_path / "mod_binary.py") in of_binary


def test_a_module_that_fails_when_it_is_imported_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mod_fails.py").write_text(SOURCE.format(name="fails") + "\nSCALE = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_modules", lambda: iter(["mod_fails"]))
    with pytest.raises(ConfigError, match=r"'fails' can't be imported: .*mod_fails\.py, line \d+: ZeroDivisionError"):
        get_method("fails")


def test_a_regime_that_there_is_not_is_one_line_that_names_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mod_odd.py").write_text(SOURCE.format(name="odd").replace('"groups"', '"foo"'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_modules", lambda: iter(["mod_odd"]))
    with pytest.raises(ConfigError, match=r"mod_odd\.py, line \d+: Regime: field 'train': .*'val_groups' ") as caught:
        get_method("odd")
    assert str(caught.value).endswith("(got 'foo'); mend module mod_odd")
    assert "\n" not in str(caught.value)


def test_a_method_of_another_package_comes_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_package.py").write_text(SOURCE.format(name="theirs"))
    monkeypatch.syspath_prepend(tmp_path)
    points = [SimpleNamespace(module="their_package")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "aimbench.methods" else [])
    entry = next(e for e in list_methods() if e.name == "theirs")
    assert "their_package" not in sys.modules  # listing imports nothing
    assert entry.summary == "Says nothing new."
    assert entry.regime == {"train": "groups", "select": "val_groups"}
    assert get_method("theirs").regime == Regime(train="groups", select="val_groups")


def test_methods_of_another_checkout_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "methods").mkdir(parents=True)
    root = tmp_path / "one"
    mixed = [str(tmp_path / "other" / "methods")]
    registry._check_one_checkout(root, "aimbench.methods", mixed)  # an installed package lies anywhere
    (root / "pyproject.toml").touch()
    registry._check_one_checkout(root, "aimbench.methods", [str(root / "methods")])
    with pytest.raises(ConfigError, match=r"other.methods: two checkouts are mixed; .*pip install -e .*one"):
        registry._check_one_checkout(root, "aimbench.methods", mixed)


def test_a_folder_dropped_into_methods_is_found_without_a_new_install() -> None:
    folder = ROOT / "methods" / "dropped_in_by_a_test"
    folder.mkdir()
    try:
        (folder / "__init__.py").write_text(SOURCE.format(name="dropped"))
        code = "from aimbench.train.registry import get_method; print(get_method('dropped').__module__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    assert done.stdout.strip() == "aimbench.methods.dropped_in_by_a_test", done.stderr


@pytest.mark.parametrize("entry", list_methods(), ids=lambda entry: entry.name)
def test_what_is_listed_is_what_is_registered(entry: registry.MethodEntry) -> None:
    method = get_method(entry.name)
    declared = {**Regime().model_dump(), **entry.regime}
    assert method.regime.model_dump() == declared
    assert method.source == entry.source
    assert entry.summary.endswith(".")
    assert method.name == entry.name
