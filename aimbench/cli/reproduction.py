"""One method's reproduction card in a terminal: what its source says, what was published, what our records say."""

import typer

from aimbench.cli.columns import print_columns
from aimbench.cli.defaults import at_defaults
from aimbench.method_cards import MethodCard
from aimbench.needs import MEANING
from aimbench.paths import results_root
from aimbench.results.index import find_digests
from aimbench.results.reference import load_references
from aimbench.results.render import percent, reference_grid
from aimbench.results.store import Store
from aimbench.results.tables import make_tables

_SHOWN = ("accuracy", "worst_group_accuracy", "epg_gradcam")


def print_reproduction(name: str, card: MethodCard) -> None:
    """Prints a method's card, what was published of it and what our records say.

    Args:
        name: Of the method.
        card: Its reproduction card.
    """
    typer.echo("")
    typer.echo(f"paper: {card.title}, {card.authors}, {card.venue} {card.year} {card.url}".rstrip())
    typer.echo(f"equation: {card.equation}")
    typer.echo(f"labels: {card.regime}")
    if card.needs:
        typer.echo(f"needs: {'; '.join(MEANING[need] for need in card.needs)}")
    if card.degenerates:
        typer.echo(f"degenerates: {card.degenerates}")
    typer.echo(f"frozen features: {card.frozen}")
    for deviation in card.deviations:
        typer.echo(f"deviation: {deviation}")
    _print_official(card)
    _print_published(card)
    _print_ours(name)


def _print_official(card: MethodCard) -> None:
    typer.echo("")
    if not card.official:
        typer.echo(f"official settings: {card.official_note}")
        return
    rows = [(setting.name, str(setting.value), setting.origin) for setting in card.official]
    print_columns(("official setting (Waterbirds)", "value", "read in"), rows)


def _print_published(card: MethodCard) -> None:
    """Rows of ``results/reference``; an installed package has none, so only the names are left."""
    typer.echo("")
    if not card.reference:
        typer.echo(f"published numbers: {card.reference_note}")
        return
    references = [r for r in load_references(results_root() / "reference") if r.method in card.reference]
    if not references:
        typer.echo(f"published numbers: of {', '.join(card.reference)}, in results/reference of aimbench's repository")
        return
    (_, *header), *rows = reference_grid(references)
    print_columns(("published", *header), map(tuple, rows))


def _print_ours(name: str) -> None:
    typer.echo("")
    runs = find_digests(Store(results_root()), None, {"method": name})
    shown = at_defaults(runs)
    tables = make_tables(shown)
    rows = [
        (
            f"{table.dataset}@{table.variant}, {table.kind}",
            table.backbone,
            table.selector,
            " ".join(filter(None, [row.config, row.settings])) or "-",
            str(row.n),
            *(percent(row.cells.get(key), row) for key in _SHOWN),
        )
        for table in tables
        for row in table.rows
    ]
    if not runs:
        typer.echo(f"ours: no record in {results_root() / 'records'}; 'aimbench run --method {name}' makes one")
        return
    header = ("ours", "backbone", "selector", "config", "runs", "accuracy", "WGA", "EPG gradcam")
    if rows:
        print_columns(header, rows)
    if others := len(runs) - len(shown):
        several = others > 1
        typer.echo(
            f"and {others} run{'s' * several} with other settings: 'aimbench results table --method {name}' and"
            f" 'aimbench results ablation {name}' show {'them' if several else 'it'}"
        )
