"""The committed tables: every file under ``tables/`` follows from the records and the published numbers.

A dataset variant has one file a format, ``tables/<dataset>@<variant>.{md,csv,json,tex}``, and where ERM was run
beside other methods ``tables/<dataset>@<variant>.evidence.{md,csv,json,tex}``.
"""

from itertools import groupby
from pathlib import Path

from aimbench.errors import RecordError
from aimbench.results.digest import digest
from aimbench.results.evidence import make_evidence
from aimbench.results.reference import load_references, references_for
from aimbench.results.render import Format, render_all
from aimbench.results.render_evidence import render_evidence
from aimbench.results.store import Store
from aimbench.results.tables import make_tables

_SUFFIXES: dict[Format, str] = {"md": "md", "csv": "csv", "json": "json", "latex": "tex"}
_MADE_BY = "Made by 'aimbench results build' from records/ and reference/; do not edit."
_HEAD: dict[Format, str] = {"md": f"<!-- {_MADE_BY} -->\n\n", "latex": f"% {_MADE_BY}\n", "json": "", "csv": ""}


def build_tables(root: Path) -> list[Path]:
    """Writes every table and removes those that no record stands behind.

    Args:
        root: The results root.

    Returns:
        The files that were written, sorted.

    Raises:
        RecordError: If a record or a published number is broken, or the folder can't be written.
    """
    contents = _contents(root)
    try:
        for path in _generated(root) - contents.keys():
            path.unlink()
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"tables in {root} can't be written ({error.strerror}); name another --results") from error
    return sorted(contents)


def outdated(root: Path) -> list[Path]:
    """Returns the files under ``tables/`` that differ from what `build_tables` would leave, sorted."""
    contents = _contents(root)
    wrong = {path for path, text in contents.items() if not path.is_file() or path.read_text("utf-8") != text}
    return sorted(wrong | (_generated(root) - contents.keys()))


def _contents(root: Path) -> dict[Path, str]:
    references = load_references(root / "reference")
    runs = [digest(record) for record in Store(root).find()]
    tables = make_tables(runs)
    contents = {}
    for (dataset, variant), members in groupby(tables, key=lambda table: (table.dataset, table.variant)):
        group = list(members)
        published = references_for(group, references)
        evidence = [(table, found) for table in group if len(table.rows) > 1 and (found := make_evidence(table, runs))]
        for format, suffix in _SUFFIXES.items():
            stem = root / "tables" / f"{dataset}@{variant}"
            shown = [] if format == "csv" else published  # CSV has no room for other columns.
            contents[stem.with_name(f"{stem.name}.{suffix}")] = _HEAD[format] + render_all(group, format, shown)
            if evidence:
                text = _HEAD[format] + render_evidence(evidence, format)
                contents[stem.with_name(f"{stem.name}.evidence.{suffix}")] = text
    return contents


def _generated(root: Path) -> set[Path]:
    """Returns the files of ``tables/`` that bear a name of ours; others are left alone."""
    return {path for suffix in _SUFFIXES.values() for path in (root / "tables").glob(f"*@*.{suffix}")}
