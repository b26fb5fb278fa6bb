"""Records in one zip file, to send to somebody or to add to a registry."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from aimbench.errors import RecordError
from aimbench.record import Record
from aimbench.results.store import Store, parse_record

# A record with its predictions takes a few MB; more than this in one file is no record.
_MAX_BYTES = 512 * 1024**2


def export_records(store: Store, records: Sequence[Record], out: Path) -> None:
    """Writes records with their Parquet files to a zip.

    Raises:
        RecordError: If a file of a record is missing, or the zip can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
            for record in records:
                folder = store.records / record.dataset.name
                for name in (f"{record.id}.json", *sorted(record.files)):
                    bundle.write(folder / name, f"{record.dataset.name}/{name}")
    except OSError as error:
        raise RecordError(
            f"bundle {out}: {error.filename or out}: {error.strerror or error}; name another file with --out"
        ) from error


def import_records(store: Store, bundle: Path) -> tuple[list[str], list[str]]:
    """Adds the records of a zip to a store; everything is checked before anything is written.

    Returns:
        Ids that were added, and ids that were already there with the same content.

    Raises:
        RecordError: If the zip is broken, a record in it is invalid or lacks a file, a checksum is wrong, or a
            record of the store has the same id and other content.
    """
    with _opened(bundle) as archive:
        names = sorted({name for name in archive.namelist() if name.endswith(".json")})
        if not names:
            raise RecordError(
                f"bundle {bundle}: it holds no record; 'aimbench results export --out FILE.zip' makes one"
            )
        # Every record is read twice, to check and to write, so that memory holds one at a time.
        known = [_stored(store, _unpack(bundle, name, archive)[0], bundle) for name in names]
        added: list[str] = []
        kept: list[str] = []
        for name, there in zip(names, known, strict=True):
            record, files = _unpack(bundle, name, archive)
            if not there:
                store.write(record, files)
            (kept if there else added).append(record.id)
    return added, kept


def _opened(bundle: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(bundle)
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(bundle, error) from error


def _read(archive: zipfile.ZipFile, name: str, bundle: Path) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > _MAX_BYTES:
        raise RecordError(f"bundle {bundle}: {info.filename} has {info.file_size} bytes, more than any record's file")
    try:
        return archive.read(info)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # Damaged, or (RuntimeError) encrypted or in a compression that Python does not know.
        raise _unreadable(bundle, error) from error


def _unreadable(bundle: Path, error: Exception) -> RecordError:
    return RecordError(f"bundle {bundle}: not readable as a zip ({error}); export it again")


def _holds(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        archive.getinfo(name)
    except KeyError:
        return False
    return True


def _unpack(bundle: Path, name: str, archive: zipfile.ZipFile) -> tuple[Record, dict[str, bytes]]:
    # A name in a zip is never used as a path: the record alone says where it belongs.
    place = bundle / PurePosixPath(name)
    try:
        text = _read(archive, name, bundle).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"record {place}: not UTF-8 text; export it again") from error
    record = parse_record(text, place)
    folder = PurePosixPath(name).parent
    missing = [file for file in record.files if not _holds(archive, str(folder / file))]
    if missing:
        raise RecordError(f"record {place}: the bundle lacks {', '.join(missing)}; export it again")
    files = {file: _read(archive, str(folder / file), bundle) for file in record.files}
    for file, content in files.items():
        if hashlib.sha256(content).hexdigest() != record.files[file]:
            raise RecordError(f"record {place}: {file} changed after the run (sha256); export it again")
    return record, files


def _stored(store: Store, record: Record, bundle: Path) -> bool:
    if not store.exists(record.id):
        return False
    if store.get(record.id) != record:
        raise RecordError(
            f"bundle {bundle}: record {record.id} is already in {store.records} with other content; "
            "keep one of the two: remove the other, or import into another --results"
        )
    return True
