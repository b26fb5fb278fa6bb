"""Digests of a large registry, kept beside the records so that a table of ten thousand runs takes a second or two.

The index is a cache: an entry counts only while its record has the size and time of change that it had when it was
read, and the file may be deleted at any time. `aimbench results build`, `validate`, `site` and `cite` never read it.
"""

import gc
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from aimbench import __version__
from aimbench.results.digest import Digest, Score, digest
from aimbench.results.store import Store

# Below this number reading the records takes well under a second.
SMALLEST = 500
_NAME = ".index.json"
_OWN = ("id", "seed", "worst_group", "seconds", "created")
"""Fields in which runs of a row differ, beside their scores."""

_Entry = tuple[tuple[int, int], Digest]
"""Time of change and size of a record, and its digest."""


def read_digests(store: Store, dataset: str | None = None) -> list[Digest]:
    """Returns the digests of all records, or of one dataset's, sorted as by `Store.find`.

    Raises:
        RecordError: If a record that is not in the index is broken.
    """
    paths = store.paths(dataset)
    if len(paths) < SMALLEST:
        return _sorted(digest(store.read(path)) for path in paths)
    with _no_collection():
        return _sorted(_read_with_index(store, paths))


def _read_with_index(store: Store, paths: Sequence[Path]) -> list[Digest]:
    file = store.records / _NAME
    known = _load(file)
    entries = {}
    for path in paths:
        state = path.stat()
        key, stamp = f"{path.parent.name}/{path.name}", (state.st_mtime_ns, state.st_size)
        entry = known.get(key)
        entries[key] = entry if entry and entry[0] == stamp else (stamp, digest(store.read(path)))
    if any(known.get(key) is not entry for key, entry in entries.items()):
        _save(file, {**known, **entries})
    return [run for _, run in entries.values()]


@contextmanager
def _no_collection() -> Iterator[None]:
    # A million objects that all stay are made at once; searching them for cycles, now or later, takes longer than
    # making them.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()


def find_digests(store: Store, dataset: str | None, wanted: Mapping[str, str | None]) -> list[Digest]:
    """Returns the digests that match every given value; None matches all.

    Args:
        store: The records.
        dataset: Name of the dataset.
        wanted: Values by attribute of `Digest`.
    """
    return [
        run
        for run in read_digests(store, dataset)
        if all(value is None or getattr(run, name) == value for name, value in wanted.items())
    ]


def _sorted(runs: Iterable[Digest]) -> list[Digest]:
    return sorted(runs, key=lambda run: (run.dataset, run.variant, run.method, run.seed, run.id))


def _version() -> str:
    """Returns what must agree for an index to be read: the version of aimbench and the fields of a digest."""
    names = ",".join(field.name for field in fields(Digest))
    return f"{__version__} {hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _load(file: Path) -> dict[str, _Entry]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != _version():
            return {}
        shared = [_tuples(values) for values in content["shared"]]
        return {
            key: ((changed, size), _joined(own, scores, shared[number]))
            for key, (changed, size, number, own, scores) in content["entries"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}  # A cache that can't be read is made anew.


def _save(file: Path, entries: Mapping[str, _Entry]) -> None:
    # Runs that differ in their seed share most of their values, so those are written once.
    shared: dict[str, int] = {}
    lines = {}
    for key, (stamp, run) in entries.items():
        values = {name: value for name, value in vars(run).items() if name not in _OWN and name != "scores"}
        number = shared.setdefault(json.dumps(values), len(shared))
        scores = {name: list(score) for name, score in run.scores.items()}
        lines[key] = [*stamp, number, [getattr(run, name) for name in _OWN], scores]
    text = json.dumps({"version": _version(), "entries": lines})
    temporary = file.with_name(f"{_NAME}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(f'{text[:-1]}, "shared": [{", ".join(shared)}]}}', encoding="utf-8")
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)  # A registry that can't be written is still read.


def _joined(own: list[Any], scores: dict[str, list[float]], shared: dict[str, Any]) -> Digest:
    return Digest(
        **shared,
        **dict(zip(_OWN, own, strict=True)),
        scores={name: Score(*values) for name, values in scores.items()},
    )


def _tuples(shared: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where a digest has tuples."""
    return {**shared, **{name: tuple(shared[name]) for name in ("row_key", "empty_groups", "mask_warnings")}}
