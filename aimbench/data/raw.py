"""Finds the official sources of a dataset in a raw folder: unpacked folders, or archives unpacked once.

Archives come from elsewhere, so nothing in them is trusted: the checksum is
enforced where the card has one, and a member that is a link, a device, or
that points outside its folder stops the build.
"""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from aimbench.cards import Card, Source
from aimbench.data.dataset import missing_sources
from aimbench.errors import DataError

_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass
class RawFolder:
    """The raw folder of a build.

    Attributes:
        root: Folder that the user named.
        cache: Folder in which archives are unpacked, once each.
        forms: What was used, e.g. ``cub: folder CUB_200_2011``; filled as sources are opened.
    """

    root: Path
    cache: Path
    forms: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise DataError(f"raw folder {self.root} does not exist; name the folder that holds the archives")

    def has(self, source: Source) -> bool:
        """Tells whether the source is there, unpacked or as an archive."""
        return self._folder(source) is not None or self._archive(source) is not None

    def missing(self, card: Card, sources: Iterable[str]) -> list[str]:
        """Returns those of the card's sources that are not there."""
        return [name for name in sources if not self.has(card.sources[name])]

    def open(self, card: Card, name: str) -> Path:
        """Returns the folder of one source, after unpacking its archive if there is no folder.

        Raises:
            DataError: If it is missing, its checksum differs, or the archive holds an unsafe member.
        """
        source = card.sources[name]
        folder = self._folder(source)
        if folder is not None:
            self._note(f"{name}: folder {folder.relative_to(self.root).as_posix()}")
            return folder
        archive = self._archive(source)
        if archive is None:
            raise DataError(f"{self.root} lacks {next(missing_sources(card, [name]))}; put it there")
        self._note(f"{name}: archive {archive.name}")
        return self._unpacked(archive, source)

    def _note(self, form: str) -> None:
        if form not in self.forms:
            self.forms.append(form)

    def _folder(self, source: Source) -> Path | None:
        for name in source.folders:
            folder = self.root / name
            if folder.is_dir() and all((folder / held).exists() for held in source.holds):
                return folder
        return None

    def _archive(self, source: Source) -> Path | None:
        stem = _stem(source.archive)
        names = [source.archive, *(stem + suffix for suffix in _SUFFIXES)]
        return next((self.root / name for name in names if (self.root / name).is_file()), None)

    def _unpacked(self, archive: Path, source: Source) -> Path:
        digest = check_archive(archive, source)
        target = self.cache / f"{_stem(archive.name)}-{digest[:16]}"
        if not target.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            # A killed unpacking leaves a temporary folder, never a half-filled target.
            temporary = Path(tempfile.mkdtemp(prefix="unpacking-", dir=self.cache))
            try:
                unpack(archive, temporary, source.only)
                temporary.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was faster
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        folder = target / source.inside
        lacking = [held for held in source.holds if not (folder / held).exists()]
        if not folder.is_dir() or lacking:
            raise DataError(
                f"archive {archive} does not hold {source.inside or ', '.join(lacking)}; get the official archive"
            )
        return folder


def member(folder: Path, relative: str) -> Path:
    """Returns ``folder / relative`` for a path read from a data file.

    Raises:
        DataError: If the path is absolute or leads out of the folder.
    """
    if not _is_inside(relative):
        raise DataError(f"{folder}: a data file names '{relative}', which lies outside; get the official archive")
    return folder / relative


def unpack(archive: Path, target: Path, only: list[str] | None = None) -> None:
    """Unpacks a tar or zip archive, refusing anything but plain files and folders inside ``target``.

    Args:
        archive: A ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip`` file.
        target: An empty folder.
        only: Path prefixes to unpack; empty or None for everything.

    Raises:
        DataError: If the archive is truncated or holds an unsafe member.
    """
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, target, only or [])
        else:
            _unpack_tar(archive, target, only or [])
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, tarfile.TarError):
            raise
        raise DataError(f"archive {archive} is truncated or corrupt ({error}); download it again") from None


def _unpack_tar(archive: Path, target: Path, only: list[str]) -> None:
    with tarfile.open(archive) as tar:
        for info in tar:
            name = info.name.removeprefix("./")
            if not (info.isfile() or info.isdir()) or not _is_inside(name):
                raise _unsafe(archive, info.name)
            if _wanted(name, only):
                tar.extract(info, target, filter="data")


def _unpack_zip(archive: Path, target: Path, only: list[str]) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if is_link or not _is_inside(info.filename):
                raise _unsafe(archive, info.filename)
            if _wanted(info.filename, only):
                zipped.extract(info, target)


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(name.startswith(prefix) for prefix in only)


def _unsafe(archive: Path, name: str) -> DataError:
    return DataError(
        f"archive {archive}: member '{name}' is a link or leads outside the archive; get the official archive"
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def _stem(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def check_archive(archive: Path, source: Source) -> str:
    """Returns the archive's digest, after comparing it with the card's.

    Raises:
        DataError: If a checksum differs.
    """
    for algorithm, expected in _expected(source):
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if expected is not None and found != expected:
            raise DataError(f"archive {archive}: {algorithm} is {found}, the card says {expected}; download it again")
    return found


def _expected(source: Source) -> Iterator[tuple[str, str | None]]:
    if source.md5:
        yield "md5", source.md5
    if source.sha256 or not source.md5:
        yield "sha256", source.sha256
