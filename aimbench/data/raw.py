"""Finds the official sources of a dataset in a raw folder: unpacked folders, or archives unpacked once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aimbench.cards import Card, Source
from aimbench.data.archives import SUFFIXES, check_archive, is_inside, stem, unpack, unpack_into, unpack_nested
from aimbench.data.dataset import missing_sources
from aimbench.errors import DataError

HUB_NOTE = "fetched-from.txt"
"""File in a folder fetched from the Hugging Face hub: dataset and commit."""


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
            problem = "is a file" if self.root.is_file() else "does not exist"
            raise DataError(f"raw folder {self.root} {problem}; name the folder that holds the archives")

    def has(self, source: Source) -> bool:
        """Tells whether the source is there, unpacked or as an archive."""
        return any(found is not None for found in (self._folder(source), self._archive(source), self._parts(source)))

    def missing(self, card: Card, sources: Iterable[str]) -> list[str]:
        """Returns those of the card's sources that are not there."""
        return [name for name in sources if not self.has(card.source(name))]

    def open(self, card: Card, name: str, wanted: Iterable[str] = ()) -> Path:
        """Returns the folder of one source, after unpacking its archive if there is no folder.

        Args:
            card: Of the dataset.
            name: Of the source.
            wanted: Where an archive holds one tar a class, the classes to unpack; empty for all.

        Raises:
            CardError: If the card has no such source.
            DataError: If it is missing, its checksum differs, or the archive holds an unsafe member.
        """
        source = card.source(name)
        folder = self._folder(source)
        if folder is not None:
            of_hub = folder / HUB_NOTE
            origin = f", {of_hub.read_text('utf-8')[:200]}" if of_hub.is_file() else ""
            self._note(f"{name}: folder {folder.relative_to(self.root).as_posix()}{origin}")
            return folder
        parts = self._parts(source)
        if parts is not None:
            self._note(f"{name}: archives {', '.join(path.name for path in parts.values())}")
            return self._unpacked_parts(parts, source, list(wanted))
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
        names = [source.archive, *(stem(source.archive) + suffix for suffix in SUFFIXES)]
        return next((self.root / name for name in names if (self.root / name).is_file()), None)

    def _parts(self, source: Source) -> dict[str, Path] | None:
        """The archives of a source that comes as one archive a folder, if all are there."""
        found = {folder: self.root / part.archive for folder, part in source.parts.items()}
        return found if found and all(path.is_file() for path in found.values()) else None

    def _unpacked(self, archive: Path, source: Source) -> Path:
        parts = [stem(archive.name), check_archive(archive, source)[:16]]
        if source.only:  # another selection of the same archive is another folder
            parts.append(hashlib.sha256("\n".join(sorted(source.only)).encode()).hexdigest()[:8])
        target = self.cache / "-".join(parts)
        unpack_into(target, partial(unpack, archive, only=source.only))
        folder = target / source.inside
        lacking = [held for held in source.holds if not (folder / held).exists()]
        if not folder.is_dir() or lacking:
            raise DataError(
                f"archive {archive} does not hold {source.inside or ', '.join(lacking)}; get the official archive"
            )
        return folder

    def _unpacked_parts(self, archives: dict[str, Path], source: Source, wanted: list[str]) -> Path:
        digests = [check_archive(path, source.parts[folder]) for folder, path in archives.items()]
        target = self.cache / "-".join([stem(source.archive), *(digest[:16] for digest in digests)])
        for name, archive in archives.items():
            if source.parts[name].nested:
                (target / name).mkdir(parents=True, exist_ok=True)
                unpack_nested(archive, target / name, wanted)
            else:
                unpack_into(target / name, partial(unpack, archive))
        return target


def member(folder: Path, relative: str) -> Path:
    """Returns ``folder / relative`` for a path read from a data file.

    Raises:
        DataError: If the path is absolute or leads out of the folder.
    """
    if not is_inside(relative):
        raise DataError(f"{folder}: a data file names '{relative}', which lies outside; get the official archive")
    return folder / relative
