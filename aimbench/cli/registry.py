"""``aimbench results site/cite/export/import/schema``: what leaves the registry and what comes in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimbench.cli.filters import DatasetOption, split_variant
from aimbench.cli.options import Cards, RegistryRoot, ResultsRoot
from aimbench.cli.output import write_text
from aimbench.errors import RecordError
from aimbench.paths import results_root

if TYPE_CHECKING:
    from aimbench.cards import Card


def site(
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")] = Path("site"),
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder with <record id>.png, as 'aimbench explain ID --out' draws them.", metavar="DIR"),
    ] = None,
    results: RegistryRoot = None,
    cards: Cards = None,
) -> None:
    """Write a static site: leaderboards, runs, methods and datasets. It needs no server."""
    from aimbench.results.site.pages import build_site
    from aimbench.train.registry import method_card

    pages = build_site(
        results_root(results),
        out,
        dataset_card=lambda name: _dataset_card(name, cards),
        method_card=method_card,
        pictures=pictures,
    )
    typer.echo(f"{pages} pages; open {out / 'index.html'}")


def cite(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of a record or a table, or its unique beginning.")],
    results: RegistryRoot = None,
    cards: Cards = None,
) -> None:
    """Print BibTeX of aimbench, the dataset and the methods behind a record or a table."""
    from aimbench.results.cite import bibtex, find_cited
    from aimbench.results.store import Store
    from aimbench.train.registry import method_card

    full, records = find_cited(Store(results_root(results)), id)
    typer.echo(bibtex(full, records, lambda name: _dataset_card(name, cards), method_card), nl=False)


def export(
    out: Annotated[
        Path, typer.Option(help="FILE.zip: whole records; FILE.jsonl: one flat line a run.", metavar="FILE")
    ] = Path("records.zip"),
    dataset: DatasetOption = None,
    method: Annotated[str | None, typer.Option(help="Only this method.", metavar="NAME")] = None,
    results: RegistryRoot = None,
) -> None:
    """Pack records with their predictions into a zip, or list their numbers as JSON Lines."""
    if out.suffix not in (".zip", ".jsonl"):
        raise RecordError(f"--out {out}: name a FILE.zip for whole records or a FILE.jsonl for a flat line a run")
    from aimbench.results.bundle import export_records
    from aimbench.results.flat import json_lines
    from aimbench.results.store import Store

    store = Store(results_root(results))
    name, variant = split_variant(dataset, None)
    records = store.find(name, variant, method)
    if not records:
        raise RecordError(f"no record in {store.records} matches, so there is nothing to export; see 'results table'")
    if out.suffix == ".jsonl":
        write_text(out, json_lines(records))
    else:
        export_records(store, records, out)
    typer.echo(f"{len(records)} records in {out}")


def import_(
    bundle: Annotated[Path, typer.Argument(metavar="ZIP", help="As 'aimbench results export' writes it.")],
    results: ResultsRoot = None,
) -> None:
    """Add the records of a zip; nothing is written unless all of them are sound."""
    from aimbench.results.bundle import import_records
    from aimbench.results.store import Store

    added, kept = import_records(Store(results_root(results)), bundle)
    for record_id in added:
        typer.echo(record_id)
    typer.echo(f"{len(added)} added, {len(kept)} already there; 'aimbench results validate' checks their numbers")


def schema() -> None:
    """Print the JSON Schema of a record."""
    from aimbench.results.schema import record_schema

    typer.echo(record_schema(), nl=False)


def _dataset_card(name: str, cards: Path | None) -> "Card | None":
    from aimbench.cards import list_cards, load_card

    return load_card(name, cards) if name in list_cards(cards) else None
