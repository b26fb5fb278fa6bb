"""The folder of records: one JSON a run, with its Parquet files beside it.

Layout under the results root::

    records/<dataset>/<id>.json
    records/<dataset>/<id>.predictions.parquet
    records/<dataset>/<id>.epochs.parquet

A JSON that is present means that all of its files are whole: they are written
first, and every file appears under its name in one step.
"""

import glob
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from filelock import FileLock
from pydantic import ValidationError

from aimbench.errors import RecordError, nearest_names
from aimbench.record import Record
from aimbench.results.migrate import migrate
from aimbench.whole_files import flush_folder
from aimbench.wrong_fields import wrong_fields

# Names become paths, so they hold no separator and do not start with a dot.
_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RECORD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{12}")
_ID_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PARQUET_SUFFIX = re.compile(r"\.[a-z_]+\.parquet")


def parquet_name(record_id: str, content: str) -> str:
    """Returns the name of a record's Parquet file; ``content`` is ``predictions`` or ``epochs``."""
    return f"{record_id}.{content}.parquet"


class Store:
    """The records under one results root. Any number of processes may read and write at once.

    Args:
        root: The results root, which holds ``records/``. It is created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = root / "records"

    def write(self, record: Record, files: Mapping[str, bytes] | None = None, *, replace: bool = False) -> Path:
        """Stores a record and its Parquet files; a record that is already there is kept.

        Args:
            record: The record. The sha256 of each of ``files`` is added to its ``files``.
            files: Content of each Parquet file, by its name (see `parquet_name`).
            replace: Whether to overwrite the record of an earlier run with the same definition.

        Returns:
            The path of the record's JSON.

        Raises:
            RecordError: If the record's id is not the hash of its definition, a name is not allowed, or
                the folder can't be written.
        """
        files = files or {}
        path = self.path(record.dataset.name, record.id)
        folder = path.parent
        for name in files:
            _check_file_name(name, record.id)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        record = record.model_copy(update={"files": {**record.files, **hashes}})
        text = _to_json(record, path)
        parse_record(text, path)  # What can't be read back must not be stored.
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if path.exists() and not replace:
                    self.read(path)
                    return path
                _write_together(path, text.encode(), files)
                _remove_stale_files(path, keep=set(record.files))
        except OSError as error:
            raise _not_writable(folder, error) from error
        return path

    def write_run(self, record: Record, contents: Mapping[str, bytes], *, replace: bool = False) -> Path:
        """Stores a record with its Parquet files by content, such as ``predictions``; as `write`."""
        files = {parquet_name(record.id, content): data for content, data in contents.items()}
        return self.write(record, files, replace=replace)

    def check_writable(self) -> None:
        """Finds out before hours of training whether a record can be written afterwards.

        Raises:
            RecordError: If it can't.
        """
        probe = self.records / f".writable-{uuid.uuid4().hex}"
        try:
            self.records.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _not_writable(self.records, error) from error

    def read(self, path: Path) -> Record:
        """Reads and checks one record.

        Raises:
            RecordError: If the file is not a record that this version reads, its id is not the hash of its
                definition, or it lies under another name or dataset than its own.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecordError(f"record {path}: not UTF-8 text; restore it or run it again") from error
        except OSError as error:
            raise RecordError(f"record {path} can't be read ({error.strerror or error})") from error
        return parse_record(text, path)

    def get(self, record_id: str) -> Record:
        """Returns the record with this id, or the only one whose id starts with it.

        Raises:
            RecordError: If no record or more than one matches, or the record is broken.
        """
        matches = self._matches(record_id)
        exact = [path for path in matches if path.stem == record_id]
        if exact:
            return self.read(exact[0])
        if not matches:
            known = [path.stem for path in self.paths()]
            # A registry of thousands would fill the screen.
            hint = nearest_names(record_id, known) if len(known) <= 20 else "'aimbench results table' lists ids"
            raise RecordError(f"no record '{record_id}' in {self.records}; {hint}")
        if len(matches) > 1:
            names = ", ".join(path.stem for path in matches[:10])
            names += f" and {len(matches) - 10} more" if len(matches) > 10 else ""
            raise RecordError(f"record id '{record_id}' is ambiguous in {self.records}: {names}; give more digits")
        return self.read(matches[0])

    def exists(self, record_id: str) -> bool:
        """Returns whether a record with exactly this id is stored; reads neither it nor the names of all others."""
        file = f"{_checked(record_id, _ID_PREFIX)}.json"
        return any((folder / file).is_file() for folder in self.records.glob("*/"))

    def find(
        self,
        dataset: str | None = None,
        variant: str | None = None,
        method: str | None = None,
        kind: str | None = None,
        backbone: str | None = None,
        selector: str | None = None,
    ) -> list[Record]:
        """Returns the records that match every given value, sorted by dataset, variant, method and id.

        Raises:
            RecordError: If any record of the searched folders is broken.
        """

        def wanted(record: Record) -> bool:
            pairs = [
                (variant, record.dataset.variant),
                (method, record.method.name),
                (kind, record.dataset.kind),
                (backbone, record.backbone.name),
                (selector, record.selector),
            ]
            return all(want is None or want == value for want, value in pairs)

        found = [record for record in map(self.read, self.paths(dataset)) if wanted(record)]
        return sorted(found, key=lambda r: (r.dataset.name, r.dataset.variant, r.method.name, r.seed, r.id))

    def path(self, dataset: str, record_id: str) -> Path:
        """Returns where a record of a dataset lies or would lie.

        Raises:
            RecordError: If the id or the name of the dataset is not allowed.
        """
        return self._folder(dataset) / f"{_checked(record_id, _RECORD_ID)}.json"

    def paths(self, dataset: str | None = None) -> list[Path]:
        """Returns the JSON files of all records, or of one dataset's, sorted."""
        folders = [self._folder(dataset)] if dataset is not None else sorted(self.records.glob("*/"))
        # Not glob, which takes a tenth of the time of a table of ten thousand records.
        return [
            folder / name
            for folder in folders
            if folder.is_dir()
            for name in sorted(entry.name for entry in os.scandir(folder))
            if name.endswith(".json") and not name.startswith(".")
        ]

    def _folder(self, dataset: str) -> Path:
        if not _DATASET_NAME.fullmatch(dataset):
            raise RecordError(f"dataset name '{dataset}' is not allowed: use letters, digits, '-' and '_'")
        return self.records / dataset

    def _matches(self, prefix: str) -> list[Path]:
        return sorted(self.records.glob(f"*/{glob.escape(_checked(prefix, _ID_PREFIX))}*.json"))


def _not_writable(folder: Path, error: OSError) -> RecordError:
    return RecordError(
        f"results folder {folder} can't be written ({error.strerror or error}); "
        "name another with --results or AIMBENCH_RESULTS"
    )


def _checked(name: str, allowed: re.Pattern[str]) -> str:
    if not allowed.fullmatch(name):
        raise RecordError(f"record id '{name}' is not allowed: it looks like 'aim-0123456789ab'")
    return name


def _check_file_name(name: str, record_id: str) -> None:
    if not (name.startswith(record_id) and _PARQUET_SUFFIX.fullmatch(name.removeprefix(record_id))):
        raise RecordError(f"record {record_id}: file name '{name}' is not '{record_id}.<content>.parquet'")


def _to_json(record: Record, path: Path) -> str:
    try:
        return json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise RecordError(f"record {path}: {error}; a record holds finite numbers and plain data only") from error


def parse_record(text: str, path: Path) -> Record:
    """Returns the record that a JSON text holds.

    Args:
        text: The JSON.
        path: Where it lies, ``.../<dataset>/<id>.json``: both must be the record's own.

    Raises:
        RecordError: As from `Store.read`.
    """
    try:
        content = json.loads(text, parse_constant=_reject_constant)
    except ValueError as error:
        raise RecordError(f"record {path}: not valid JSON ({error}); restore it or run it again") from error
    if not isinstance(content, dict):
        raise RecordError(f"record {path}: holds no JSON object; restore it or run it again")
    try:
        record = Record.model_validate(migrate(content))
    except RecordError as error:
        raise RecordError(f"record {path}: {error}") from error
    except ValidationError as error:
        raise RecordError(f"record {path}: {wrong_fields(error, Record)}; restore it or run it again") from error
    _check_identity(record, path)
    return record


def _check_identity(record: Record, path: Path) -> None:
    _checked(record.id, _RECORD_ID)
    if not _VARIANT.fullmatch(record.dataset.variant):
        raise RecordError(
            f"record {path}: variant '{record.dataset.variant}' is not allowed: use letters, digits, '.', '-' and '_'"
        )
    if record.id != record.definition.id:
        raise RecordError(
            f"record {path}: its definition hashes to {record.definition.id}, not to its id {record.id}: "
            "it was edited; restore it or run it again"
        )
    if (path.stem, path.parent.name) != (record.id, record.dataset.name):
        raise RecordError(f"record {path}: belongs at {record.dataset.name}/{record.id}.json; move it there")
    for name in record.files:
        _check_file_name(name, record.id)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _write_together(path: Path, text: bytes, files: Mapping[str, bytes]) -> None:
    """Puts a record's files in place so that a JSON that is present has all of its own files beside it."""
    folder = path.parent
    with _temporary_files({**files, path.name: text}, folder) as temporary:
        # On a replacement the old JSON goes first: it does not describe the new files.
        path.unlink(missing_ok=True)
        for name in [*files, path.name]:
            temporary[name].replace(folder / name)
    flush_folder(folder)


@contextmanager
def _temporary_files(contents: Mapping[str, bytes], folder: Path) -> Iterator[dict[str, Path]]:
    paths = {name: folder / f".{name}.{uuid.uuid4().hex}.tmp" for name in contents}
    try:
        for name, content in contents.items():
            with paths[name].open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        yield paths
    finally:
        for temporary in paths.values():
            temporary.unlink(missing_ok=True)


def _remove_stale_files(path: Path, keep: set[str]) -> None:
    for other in path.parent.glob(f"{glob.escape(path.stem)}.*.parquet"):
        if other.name not in keep:
            other.unlink()
