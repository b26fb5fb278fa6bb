"""Downloads the archives of a dataset: several addresses each, tried in order, resumed, and checked.

A file appears under its own name only when it is whole and its checksum is
right; until then it is ``<archive>.part``.
"""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from aimbench.cards import Card, Source
from aimbench.data.archives import check_archive, check_is_archive
from aimbench.data.raw import HUB_NOTE, RawFolder
from aimbench.errors import DataError

Report = Callable[[str], None]
"""Told what happens, one line at a time."""

Bytes = Callable[[str, int, int | None], None]
"""Called with the archive's name, bytes so far and bytes in all, None where the host does not say."""

ATTEMPTS = 3
"""Times that one address is tried before the next; each goes on where the last broke off."""

TIMEOUT = 30.0
"""Seconds without a byte after which a host counts as dead."""

PAUSE = 1.0
"""Seconds before another attempt; doubled each time."""

_TABLES = ("parquet", "arrow", "json")
"""Suffixes of what is downloaded from the hub: tables and their description, no code."""

_BLOCK = 1 << 18
_HEADERS = {"User-Agent": "aimbench", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Offer:
    """What a fetch would do for one source.

    Attributes:
        name: Of the source on the card.
        source: The source.
        there: Whether the raw folder has it already.
        size: Bytes, None where no host says.
        address: First address that answered, None if none did.
    """

    name: str
    source: Source
    there: bool
    size: int | None
    address: str | None


class _NotThisOne(Exception):
    """An address that can't give the archive; the next one is tried."""


def offers(card: Card, names: list[str], raw: Path, report: Report) -> list[Offer]:
    """Asks what the archives weigh, before anything is downloaded.

    Args:
        card: Of the dataset.
        names: Sources to ask about.
        raw: Raw folder, which may hold some already.
        report: Told of hosts that do not answer.
    """
    folder = RawFolder(raw, raw)
    found = []
    for name in names:
        source = card.sources[name]
        there = folder.has(source)
        size, address = (None, None) if there else _ask(source, report)
        found.append(Offer(name, source, there, size, address))
    return found


def check_space(raw: Path, found: list[Offer]) -> None:
    """Refuses a download that can't fit.

    Raises:
        DataError: If the disk of ``raw`` is too small for the sizes that are known.
    """
    needed = sum(max(0, (offer.size or 0) - _kept(raw, offer)) for offer in found if not offer.there)
    free = shutil.disk_usage(raw).free
    if needed > free:
        raise DataError(
            f"{raw} has {free / 1e9:.1f} GB free, the archives need {needed / 1e9:.1f} GB; name another --raw"
        )


def _kept(raw: Path, offer: Offer) -> int:
    """Bytes of a broken-off download that lie there already."""
    part = _part(raw, offer.source)
    return part.stat().st_size if part.is_file() else 0


def fetch(offer: Offer, raw: Path, report: Report, progress: Bytes) -> Path:
    """Downloads one source into ``raw``.

    Args:
        offer: Of ``offers``.
        raw: Raw folder.
        report: Told of hosts that fail and of what is tried next.
        progress: Called as bytes arrive.

    Returns:
        The archive, or the folder of a dataset of the hub.

    Raises:
        DataError: If no address gives the archive with the right checksum.
    """
    source = offer.source
    failures = []
    part = _part(raw, source)
    part.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(part.with_name(f".{part.name}.lock")):
        if (raw / source.archive).is_file():
            return raw / source.archive  # another process was faster
        for address in source.urls:
            try:
                return _fetch_from(address, source, raw, report, progress)
            except _NotThisOne as failure:
                failures.append(f"{address}: {failure}")
                report(f"{offer.name}: {failures[-1]}")
        if source.hub:
            return _fetch_hub(source, raw, failures)
    by_hand = f"; get it by hand from {', '.join(source.pages)} and put it into {raw}" if source.pages else ""
    tried = "; ".join(failures) or "the card names no address for a download"
    raise DataError(f"{source.names} could not be downloaded ({tried}){by_hand}")


def _ask(source: Source, report: Report) -> tuple[int | None, str | None]:
    for number, address in enumerate(source.urls, start=1):
        then = "trying the next source" if number < len(source.urls) else "the card names no further one"
        try:
            request = urllib.request.Request(address, method="HEAD", headers=_HEADERS)
            with _open(request) as answer:
                length = answer.headers.get("Content-Length")
                return (int(length) if length and length.isdecimal() else None), address
        except urllib.error.HTTPError as error:
            if error.code in (403, 405, 501):
                return None, address  # some hosts refuse to say without sending
            report(f"{address}: {_reason(error)}; {then}")
        except (OSError, http.client.HTTPException) as error:
            report(f"{address}: {_reason(error)}; {then}")
    return None, None


def _fetch_from(address: str, source: Source, raw: Path, report: Report, progress: Bytes) -> Path:
    part, pause = _part(raw, source), PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download(address, part, progress, source.archive)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _NotThisOne(_reason(error)) from None
            problem = _reason(error)
        except (OSError, http.client.HTTPException) as error:
            problem = _reason(error)
        if attempt == ATTEMPTS:
            raise _NotThisOne(f"{problem}, {ATTEMPTS} times")
        report(f"{source.archive}: {problem}; going on at byte {part.stat().st_size if part.is_file() else 0}")
        time.sleep(pause)
        pause *= 2
    try:
        digest = check_archive(part, source)
        if not (source.md5 or source.sha256):
            check_is_archive(part, source.archive)
    except DataError as error:
        _forget(part)
        raise _NotThisOne(str(error)) from None
    if not (source.md5 or source.sha256):
        report(f"{source.archive}: the card has no checksum to compare with; sha256 {digest}")
    target = raw / source.archive
    part.rename(target)
    _forget(part)
    return target


def _part(raw: Path, source: Source) -> Path:
    return raw / f"{source.archive}.part"


def _download(address: str, part: Path, progress: Bytes, name: str) -> None:
    """Appends to the partial file where the host can go on, else starts over.

    Raises:
        OSError: If the connection breaks off before all bytes are there.
    """
    have = _resumable(part, address)
    headers = dict(_HEADERS)
    if have:
        headers["Range"] = f"bytes={have}-"
        # Without a validator a changed file would be stitched to the old one.
        headers["If-Range"] = _validator(part)
    try:
        answer = _open(urllib.request.Request(address, headers=headers))
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if have and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all bytes are there: the end came before the checksum was compared
        _forget(part)
        answer = _open(urllib.request.Request(address, headers=_HEADERS))
        have = 0
    with answer:
        start = _start(answer, have)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        _remember(part, address, answer)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            done = start
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                progress(name, done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke off at {done} of {total} bytes")


def _start(answer: Any, have: int) -> int:
    """The byte at which the answer begins: a host may ignore that a range was asked for."""
    if answer.status != http.client.PARTIAL_CONTENT:
        return 0
    stated = answer.headers.get("Content-Range", "")
    if not stated.startswith(f"bytes {have}-"):
        raise ConnectionError(f"the host sent '{stated}' for the bytes from {have}")
    return have


def _open(request: urllib.request.Request) -> Any:
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, address: str, answer: Any) -> None:
    """Notes which version of the file is being downloaded, and from where."""
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    # A weak tag promises the same meaning, not the same bytes.
    validator = "" if validator.startswith("W/") else validator
    _note(part).write_text(json.dumps({"address": address, "validator": validator}), encoding="utf-8")


def _resumable(part: Path, address: str) -> int:
    """Bytes that may be kept: those from the same address and a version that can be asked for."""
    if not part.is_file() or not _validator(part):
        return 0
    return part.stat().st_size if json.loads(_note(part).read_text(encoding="utf-8"))["address"] == address else 0


def _validator(part: Path) -> str:
    try:
        return str(json.loads(_note(part).read_text(encoding="utf-8"))["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _fetch_hub(source: Source, raw: Path, failures: list[str]) -> Path:
    """Downloads the tables of a dataset of the Hugging Face hub; the library resumes and checks by itself."""
    import huggingface_hub

    assert source.hub is not None
    target = raw / source.folders[0]
    # Under its own name only when it is whole; the library goes on in a folder that it has begun.
    part = target.with_name(f"{target.name}.part")
    if target.is_dir() and not part.exists():
        target.rename(part)  # it lacks something, else nothing would be fetched
    try:
        commit = huggingface_hub.dataset_info(source.hub, revision=source.revision).sha
        note = f"{source.hub} at {commit}"
        # What another commit called otherwise would stay beside the files of this one. A folder without a note was put
        # there by hand and is only added to.
        if (part / HUB_NOTE).is_file() and (part / HUB_NOTE).read_text("utf-8") != note:
            shutil.rmtree(part)
        part.mkdir(exist_ok=True)
        (part / HUB_NOTE).write_text(note, "utf-8")
        huggingface_hub.snapshot_download(
            source.hub,
            repo_type="dataset",
            revision=commit,
            local_dir=part,
            allow_patterns=[f"{prefix}*.{suffix}" for prefix in source.only or [""] for suffix in _TABLES],
        )
    except Exception as error:  # the library raises errors of several others
        tried = "; ".join([*failures, f"Hugging Face {source.hub}: {_reason(error)}"])
        raise DataError(f"{source.folders[0]} could not be downloaded ({tried})") from None
    if target.is_dir():
        raise DataError(f"{part} is whole, but {target} stands in its place and lacks something; remove {target}")
    part.rename(target)
    return target


def _reason(error: Exception) -> str:
    text = getattr(error, "reason", None) or error
    code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return f"{code}{' '.join(str(text).split())}" or type(error).__name__
