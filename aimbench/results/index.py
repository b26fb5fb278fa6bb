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
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from aimbench import __version__
from aimbench.results.digest import Digest, Score, digest
from aimbench.results.store import Store

# Below this number reading the records takes well under a second.
SMALLEST = 500
_NAME = ".index.json"


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
    found = []
    for path in paths:
        state = path.stat()
        key, stamp = f"{path.parent.name}/{path.name}", [state.st_mtime_ns, state.st_size]
        entry = known.get(key)
        if entry is None or entry[0] != stamp:
            run = digest(store.read(path))
            entry = [stamp, asdict(run)]
        else:
            run = _from_plain(entry[1])
        entries[key] = entry
        found.append(run)
    if any(known.get(key) is not entry for key, entry in entries.items()):
        _save(file, {**known, **entries})
    return found


@contextmanager
def _no_collection() -> Iterator[None]:
    # A million objects that all stay are made at once; searching them for cycles takes longer than making them.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_digests(
    store: Store, dataset: str | None, wanted: Mapping[str, str | None], regime: str | None = None
) -> list[Digest]:
    """Returns the digests that match every given value; None matches all.

    Args:
        store: The records.
        dataset: Name of the dataset.
        wanted: Values by attribute of `Digest`.
        regime: Labels that the method trains on, such as ``class`` or ``groups``.
    """
    return [
        run
        for run in read_digests(store, dataset)
        if all(value is None or getattr(run, name) == value for name, value in wanted.items())
        and (regime is None or run.regime.get("train") == regime)
    ]


def _sorted(runs: Iterable[Digest]) -> list[Digest]:
    return sorted(runs, key=lambda run: (run.dataset, run.variant, run.method, run.seed, run.id))


def _from_plain(plain: dict[str, Any]) -> Digest:
    scores = {key: Score(**score) for key, score in plain["scores"].items()}
    return Digest(**{**plain, "scores": scores, "empty_groups": tuple(plain["empty_groups"])})


def _version() -> str:
    """Returns what must agree for an index to be read: the version of aimbench and the fields of a digest."""
    names = ",".join(field.name for field in fields(Digest))
    return f"{__version__} {hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _load(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["entries"]) if content["version"] == _version() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # A cache that can't be read is made anew.


def _save(file: Path, entries: dict[str, list[Any]]) -> None:
    temporary = file.with_name(f"{_NAME}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps({"version": _version(), "entries": entries}), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)  # A registry that can't be written is still read.
