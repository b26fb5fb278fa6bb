"""Finds methods by name.

A method is a Python file in ``baselines/``, a folder in ``methods/``, or a
module that another package names in the entry-point group
``aimbench.methods``. Listing reads their source and imports nothing, so that
``aimbench list methods`` answers at once; a method's module is imported when
the method is used.
"""

from __future__ import annotations

import ast
import importlib
import logging
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

import aimbench
from aimbench.errors import AimbenchError, ConfigError, nearest_names
from aimbench.method_cards import MethodCard, load_method_card, read_later
from aimbench.wrong_fields import wrong_fields

if TYPE_CHECKING:
    from aimbench.train.method import Method, Regime

PACKAGES = ("aimbench.baselines", "aimbench.methods")
ENTRY_POINTS = "aimbench.methods"

_LOG = logging.getLogger(__name__)

_M = TypeVar("_M", bound="type[Method]")
_registered: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class MethodEntry:
    """A method as its source declares it."""

    name: str
    module: str
    source: str
    summary: str
    regime: dict[str, str] = field(default_factory=dict)

    @property
    def card_file(self) -> Path:
        """Where the reproduction card lies: beside the module, named like the method."""
        spec = find_spec(self.module)
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / f"{self.name}.yaml"


def register_method(name: str, *, regime: Regime, source: str) -> Callable[[_M], _M]:
    """Class decorator that gives a method its name on the command line.

    Args:
        name: lower case, unique.
        regime: the labels that it consumes.
        source: paper and section that define it.

    Raises:
        ConfigError: another class has the name.
    """

    def register(cls: _M) -> _M:
        other = _registered.get(name)
        if other is not None and other.__qualname__ + other.__module__ != cls.__qualname__ + cls.__module__:
            raise ConfigError(
                f"two methods are called '{name}': {other.__module__}.{other.__qualname__} and"
                f" {cls.__module__}.{cls.__qualname__}; rename one"
            )
        cls.name, cls.regime, cls.source = name, regime, source
        _registered[name] = cls
        return cls

    return register


def list_methods() -> list[MethodEntry]:
    """All methods, by name.

    Raises:
        ConfigError: two modules declare the same name.
    """
    return [entry for _, entry in sorted(_index().items())]


def check_method(name: str) -> None:
    """Checks that there is a method called ``name``; imports nothing.

    Raises:
        ConfigError: no method has the name.
    """
    if name not in _registered and name not in _index():
        raise ConfigError(f"unknown method '{name}': {nearest_names(name, _index())}")


def method_card(name: str) -> MethodCard | None:
    """The reproduction card of the method called ``name``, or None if there is none; imports nothing.

    Raises:
        CardError: the card is malformed.
    """
    entry = _index().get(name)
    return load_method_card(entry.card_file) if entry is not None and entry.card_file.exists() else None


def later_settings(name: str) -> dict[str, Any]:
    """Settings that a definition of the method leaves out, and the values that it then means; imports nothing.

    A card that is not whole yet is no reason to show no table: what is wrong with it is said where it is used.
    """
    entry = _index().get(name)
    return read_later(entry.card_file) if entry is not None else {}


def get_method(name: str) -> type[Method]:
    """The method class called ``name``; imports its module.

    Raises:
        ConfigError: no method has the name.
    """
    check_method(name)
    if name not in _registered:
        entry = _index()[name]
        _import(entry)
        if name not in _registered:
            raise ConfigError(f"module {entry.module} declares method '{name}' but registered none of that name")
    return _registered[name]


def _import(entry: MethodEntry) -> None:
    try:
        importlib.import_module(entry.module)
    except AimbenchError:
        raise
    except Exception as error:
        _registered.pop(entry.name, None)  # a module may fail after it has registered
        # The innermost frame of the method's own files, whatever library the error comes from.
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(entry.card_file.parent)]
        place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
        if isinstance(error, ValidationError):
            problem = f"{error.title}: {wrong_fields(error, None)}"
        else:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"method '{entry.name}' can't be imported: {place}{problem}; mend module {entry.module}"
        ) from error


@lru_cache(maxsize=1)
def _index() -> dict[str, MethodEntry]:
    found: dict[str, MethodEntry] = {}
    for module in _modules():
        for entry in _declared_in(module):
            if entry.name in found:
                raise ConfigError(
                    f"two methods are called '{entry.name}': in {found[entry.name].module} and {module}; rename one"
                )
            found[entry.name] = entry
    return found


def _modules() -> Iterator[str]:
    for package in PACKAGES:
        spec = find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        _check_one_checkout(Path(aimbench.__file__).resolve().parents[1], package, folders)
        for info in pkgutil.iter_modules(folders):
            yield f"{package}.{info.name}"
    for point in entry_points(group=ENTRY_POINTS):
        yield point.module


def _check_one_checkout(root: Path, package: str, folders: list[str]) -> None:
    """Refuses the engine of one checkout with the methods of another: a record could not say what code made it.

    Raises:
        ConfigError: a folder of ``package`` is not the one beside the engine in ``root``.
    """
    if not (root / "pyproject.toml").is_file():
        return  # an installed package
    own = (root / package.rpartition(".")[2]).resolve()
    for folder in folders:
        # A strict editable install links the files, not the folder.
        if (Path(folder) / "__init__.py").resolve().parent != own:
            raise ConfigError(
                f"aimbench comes from {root}, but {package} from {folder}: two checkouts are mixed; install the one"
                f" that is meant (pip install -e {root}) and leave PYTHONPATH out"
            )


def _declared_in(module: str) -> Iterator[MethodEntry]:
    """Reads the ``@register_method(...)`` decorators in a module's source, or in all files of a package.

    A file that is no Python is said and left out: the other methods have nothing to do with it.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return
    origin = Path(spec.origin)
    for path in sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]:
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            problem = error.msg if isinstance(error, SyntaxError) else error
            _LOG.warning("warning: %s%s: %s; methods in it are left out until it is mended", path, where, problem)
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield from _declared_by(node, module)


def _declared_by(node: ast.ClassDef, module: str) -> Iterator[MethodEntry]:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "register_method" and call.args:
            keywords = {k.arg: k.value for k in call.keywords}
            yield MethodEntry(
                name=_literal(call.args[0]),
                module=module,
                source=_literal(keywords.get("source")),
                summary=(ast.get_docstring(node) or "").split("\n")[0],
                regime={k.arg or "": _literal(k.value) for k in getattr(keywords.get("regime"), "keywords", [])},
            )


def _literal(node: Any) -> str:
    try:
        return str(ast.literal_eval(node))
    except (ValueError, TypeError):
        return ""
