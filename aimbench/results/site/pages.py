"""Writes the site: one page a dataset, a method and a run, and an index.

Everything that comes from a record, a card or a CSV is escaped by jinja2's autoescape; the pages ask no other host
for anything and work from the file system.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimbench.cards import Card
from aimbench.errors import RecordError
from aimbench.method_cards import MethodCard
from aimbench.record import Record
from aimbench.results.digest import Digest, digest
from aimbench.results.evidence import make_evidence
from aimbench.results.reference import Reference, load_references, references_for
from aimbench.results.render import command, reference_grid, title
from aimbench.results.render_evidence import NOTES, evidence_grid
from aimbench.results.rerun import rerun_command
from aimbench.results.site import charts
from aimbench.results.store import Store
from aimbench.results.tables import Row, Table, make_tables

if TYPE_CHECKING:
    from jinja2 import Environment

_ASSETS = ("style.css", "site.js")
_FOLDERS = ("datasets", "methods", "runs")
_HERE = Path(__file__).parent / "templates"


def build_site(
    root: Path,
    out: Path,
    *,
    dataset_card: Callable[[str], Card | None],
    method_card: Callable[[str], MethodCard | None],
    pictures: Path | None = None,
) -> int:
    """Writes the site of all records under a results root.

    Args:
        root: The results root.
        out: Folder to write to; pages of the same name are replaced.
        dataset_card: Card of a dataset by name, None if it has none here.
        method_card: Card of a method by name, None if it has none here.
        pictures: Folder with ``<record id>.png`` as `aimbench explain` draws them; copied beside the runs' pages.

    Returns:
        The number of pages.

    Raises:
        RecordError: If a record or a published number is broken, or the folder can't be written.
    """
    records = Store(root).find()
    runs = [digest(record) for record in records]
    tables = make_tables(runs)
    references = load_references(root / "reference")
    templates = _environment()
    try:
        for folder in _FOLDERS:
            (out / folder).mkdir(parents=True, exist_ok=True)
        for asset in _ASSETS:
            shutil.copyfile(_HERE / asset, out / asset)
        pages = {Path("index.html"): templates.get_template("index.html").render(**_index(tables, runs))}
        for name in sorted({table.dataset for table in tables}):
            view = _dataset(name, [t for t in tables if t.dataset == name], runs, references)
            page = templates.get_template("dataset.html").render(**view, card=dataset_card(name))
            pages[Path("datasets") / f"{name}.html"] = page
        method_cards = {name: method_card(name) for name in sorted({run.method for run in runs})}
        for name, card in method_cards.items():
            rows = [(table, row) for table in tables for row in table.rows if row.method == name]
            view = _method(name, rows, references, card)
            page = templates.get_template("method.html").render(**view)
            pages[Path("methods") / f"{name}.html"] = page
        # A run that a newer one of its seed stands for is in no row, but has a table all the same.
        key_of = {run.id: run.table_key for run in runs}
        table_of = {key_of[row.records[0]]: table for table in tables for row in table.rows}
        run_page = templates.get_template("run.html")
        for record in records:
            picture = _copy_picture(record, pictures, out / "runs")
            view = _run(record, method_cards[record.method.name])
            text = run_page.render(**view, table=table_of[key_of[record.id]], picture=picture, **_up())
            pages[Path("runs") / f"{record.id}.html"] = text
        for path, text in pages.items():
            (out / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"site {out} can't be written ({error.strerror or error}); name another --out") from error
    return len(pages)


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.globals.update(
        title=title,
        command=command,
        WIDTH=charts.WIDTH,
        HEIGHT=charts.HEIGHT,
        CURVE_WIDTH=charts.CURVE_WIDTH,
        CURVE_HEIGHT=charts.CURVE_HEIGHT,
    )
    return environment


def _up() -> dict[str, str]:
    return {"up": "../"}


def _index(tables: Sequence[Table], runs: Sequence[Digest]) -> dict[str, Any]:
    datasets = {}
    for name in sorted({table.dataset for table in tables}):
        own = [table for table in tables if table.dataset == name]
        datasets[name] = {
            "variants": sorted({table.variant for table in own}),
            "kinds": sorted({table.kind for table in own}),
            "runs": sum(row.n for table in own for row in table.rows),
        }
    return {"datasets": datasets, "methods": sorted({run.method for run in runs}), "total": len(runs), "up": ""}


def _dataset(
    name: str, tables: Sequence[Table], runs: Sequence[Digest], references: Sequence[Reference]
) -> dict[str, Any]:
    regimes = sorted({row.regime for table in tables for row in table.rows})
    return {
        "name": name,
        "boards": [
            {"table": table, "scatter": charts.scatter(table), "evidence": _evidence(table, runs)} for table in tables
        ],
        "regimes": regimes,
        "kinds": sorted({table.kind for table in tables}),
        "backbones": sorted({table.backbone for table in tables}),
        "variants": sorted({table.variant for table in tables}),
        "references": references_for(tables, references),
        "evidence_notes": NOTES,
        **_up(),
    }


def _method(
    name: str, rows: Sequence[tuple[Table, Row]], references: Sequence[Reference], card: MethodCard | None
) -> dict[str, Any]:
    published = [reference for reference in references if card is not None and reference.method in card.reference]
    return {"name": name, "rows": rows, "card": card, "published": reference_grid(published), **_up()}


def _evidence(table: Table, runs: Sequence[Digest]) -> list[list[list[str]]]:
    if len(table.rows) < 2:
        return []
    found = make_evidence(table, runs)
    metrics = list(dict.fromkeys(one.metric for one in found))
    return [evidence_grid([one for one in found if one.metric == metric]) for metric in metrics]


def _run(record: Record, card: MethodCard | None) -> dict[str, Any]:
    return {
        "record": record,
        "rerun": rerun_command(record, card),
        "curves": charts.curves(record.phases),
        "settings": _listing(record),
    }


def _listing(record: Record) -> Mapping[str, Mapping[str, Any]]:
    return {
        "Method": record.method.config,
        "Training": record.training,
        "Labels used": record.method.regime,
        "Environment": record.environment,
        "Cost": record.cost.model_dump(),
        "Code": record.code.model_dump(),
    }


def _copy_picture(record: Record, pictures: Path | None, folder: Path) -> str | None:
    source = pictures / f"{record.id}.png" if pictures is not None else None
    if source is None or not source.is_file():
        return None
    shutil.copyfile(source, folder / source.name)
    return source.name
