"""Which code a method is: a hash by which a record or a checkpoint of other code is told from today's."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from aimbench.train.registry import PACKAGES, get_method


def is_of_other_source(method: str, source: str | None) -> bool:
    """Whether the source of a method is another than a record's ``method_source``; False where that says nothing."""
    return source is not None and source != source_hash(get_method(method).__module__)


@cache
def source_hash(module: str) -> str:
    """sha256 over the source of ``module`` and of the modules of methods, or of its own package, that it imports.

    The house's own code (``aimbench`` without methods and baselines) is no part of it; its revision is in records.
    """
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in files and path is not None:
            files[name] = path
            waiting += [found for found in _imported(name, path) if _belongs(found, module)]
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _file(module: str) -> Path | None:
    """The source file of a module; None for what is no module, such as a class that was imported from one."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _imported(module: str, path: Path) -> Iterator[str]:
    """Names that a file imports; of ``from a import b`` both ``a`` and ``a.b``, which may be a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = resolve_name(base, package) if node.level else base
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _belongs(name: str, module: str) -> bool:
    top = module.partition(".")[0]
    roots = PACKAGES if top == "aimbench" else (*PACKAGES, top)
    return any(name == root or name.startswith(f"{root}.") for root in roots)
