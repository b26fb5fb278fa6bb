"""Archives: checked against the card, and unpacked without trust.

They come from elsewhere, so a member that is a link, a device, or that
points outside its folder stops the build.
"""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import Self

from filelock import FileLock

from aimbench.cards import Archive
from aimbench.errors import DataError

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

_BLOCK = 1 << 20


class _WholeHeader(tarfile.TarInfo):
    """A member's header; tarfile takes a damaged or missing one for the end of the archive, here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        start = tarfile.offset
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            # A zero block is the end; at the start the library tries another compression.
            if isinstance(error, EOFHeaderError) or start == 0:
                raise
            raise ReadError(f"{error} at byte {start}") from None


def stem(name: str) -> str:
    """Returns the name of an archive without its suffix."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def is_inside(name: str) -> bool:
    """Tells whether a path from a file stays in the folder that it is relative to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def unpack_into(target: Path, fill: Callable[[Path], None]) -> None:
    """Makes the folder ``target`` at once and whole: a kill leaves a temporary folder, never a half-filled one.

    Args:
        target: Folder to make; nothing happens if it is there.
        fill: Writes into the empty folder that it is given.
    """
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".unpacking-{target.name}-"
    with FileLock(target.parent / ".unpacking.lock"):
        if target.is_dir():
            return  # another process was faster
        for left in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            fill(temporary)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: Path, target: Path, only: list[str] | None = None) -> None:
    """Unpacks a tar or zip archive, refusing anything but plain files and folders inside ``target``.

    Args:
        archive: A ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip`` file.
        target: An empty folder.
        only: Path prefixes to unpack; empty or None for everything.

    Raises:
        DataError: If the archive is truncated or damaged, holds an unsafe member, or needs more space than there is.
    """
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, target, only or [])
        else:
            _unpack_tar(archive, target, only or [])
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        # RuntimeError: encrypted, or in a compression that Python does not know.
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, tarfile.TarError):
            raise
        raise _corrupt(archive, error) from None


def unpack_nested(archive: Path, target: Path, wanted: Iterable[str]) -> None:
    """Unpacks a tar of tars, each into a folder of its name under ``target``; those that are there are left.

    Args:
        archive: E.g. ``ILSVRC2012_img_train.tar``, which holds one tar a class.
        target: Folder of the folders.
        wanted: Names of the folders; empty for all.

    Raises:
        DataError: If an archive is truncated, holds an unsafe member, or something else than tars.
    """
    lacking = {name for name in wanted if not (target / name).is_dir()}
    if not lacking and wanted:
        return
    try:
        with tarfile.open(archive, tarinfo=_WholeHeader) as outer:
            for info in outer:
                name = info.name.removeprefix("./")
                if not info.isfile() or "/" in name or not is_inside(name) or not name.endswith(".tar"):
                    raise DataError(f"archive {archive}: member '{info.name}' is no tar; get the official archive")
                if not lacking or stem(name) in lacking:
                    unpack_into(target / stem(name), partial(_unpack_inner, outer, info))
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise _corrupt(archive, error) from None


def _unpack_inner(outer: tarfile.TarFile, info: tarfile.TarInfo, target: Path) -> None:
    content = outer.extractfile(info)
    assert content is not None  # it is a file
    with tarfile.open(fileobj=content, tarinfo=_WholeHeader) as inner:
        _extract(inner, Path(str(outer.name)) / info.name, target, [])


def _unpack_tar(archive: Path, target: Path, only: list[str]) -> None:
    with tarfile.open(archive, tarinfo=_WholeHeader) as tar:
        _extract(tar, archive, target, only)


def _extract(tar: tarfile.TarFile, archive: Path, target: Path, only: list[str]) -> None:
    for info in tar:
        name = info.name.removeprefix("./")
        if not (info.isfile() or info.isdir()) or not is_inside(name):
            raise _unsafe(archive, info.name)
        if _wanted(name, only):
            _check_space(archive, target, info.size)
            tar.extract(info, target, filter="data")
    assert tar.fileobj is not None
    while tar.fileobj.read(_BLOCK):
        pass  # to the end, where gzip's checksum of all bytes is compared


def _unpack_zip(archive: Path, target: Path, only: list[str]) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if is_link or not is_inside(info.filename):
                raise _unsafe(archive, info.filename)
            if _wanted(info.filename, only):
                _check_space(archive, target, info.file_size)
                zipped.extract(info, target)


def _check_space(archive: Path, target: Path, size: int) -> None:
    free = shutil.disk_usage(target).free
    if size > free:
        raise DataError(
            f"archive {archive}: the next member needs {size / 1e9:.1f} GB, {target} has {free / 1e9:.1f} GB"
        )


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(name.startswith(prefix) for prefix in only)


def _unsafe(archive: Path, name: str) -> DataError:
    return DataError(
        f"archive {archive}: member '{name}' is a link or leads outside the archive; get the official archive"
    )


def _corrupt(archive: Path, error: Exception) -> DataError:
    return DataError(f"archive {archive} is truncated or corrupt ({error}); remove it and download it again")


def check_archive(archive: Path, source: Archive) -> str:
    """Returns the archive's digest, after comparing it with the card's.

    Raises:
        DataError: If a checksum differs.
    """
    for algorithm, expected in _expected(source):
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if expected is not None and found != expected:
            raise DataError(
                f"archive {archive}: {algorithm} is {found}, the card says {expected}; remove it and download it again"
            )
    return found


def check_is_archive(path: Path, name: str) -> None:
    """Refuses what is no archive though its name says so, such as the page of a host that knows the file no more.

    Raises:
        DataError: If ``path`` is neither a tar nor a zip file.
    """
    if name.endswith(SUFFIXES) and not (tarfile.is_tarfile(path) or zipfile.is_zipfile(path)):
        with path.open("rb") as file:
            raise DataError(f"what came is no archive (it begins with {file.read(40)!r})")


def _expected(source: Archive) -> Iterator[tuple[str, str | None]]:
    if source.md5:
        yield "md5", source.md5
    if source.sha256 or not source.md5:
        yield "sha256", source.sha256
