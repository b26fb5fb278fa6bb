"""``aimbench list``: what there is to run."""

from collections.abc import Iterable

import typer

app = typer.Typer(help="List methods, datasets and backbones.", no_args_is_help=True)


@app.command()
def methods() -> None:
    """List methods with the labels that they use."""
    from aimbench.train.registry import list_methods

    rows = [(m.name, _regime(m.regime), m.summary, m.source) for m in list_methods()]
    _print(("method", "labels used", "summary", "source"), rows)


@app.command()
def datasets() -> None:
    """List datasets with their variants; NAME@VARIANT picks one."""
    from aimbench.cards import list_cards, load_card

    cards = [load_card(name) for name in list_cards()]
    rows = [
        (card.name, ", ".join(sorted(card.variants)), card.ground_truth.kind, card.licence, card.title)
        for card in cards
    ]
    _print(("dataset", "variants", "ground truth", "licence", "title"), rows)


@app.command()
def backbones() -> None:
    """List backbones that were tried; any timm model with a feature pyramid works too."""
    from aimbench.models.catalogue import BACKBONES

    rows = [(b.name, b.family, f"{b.parameters_m:.1f} M", b.note) for b in BACKBONES]
    _print(("backbone", "family", "parameters", "note"), rows)


def _regime(regime: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in regime.items())


def _print(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Prints aligned columns in a terminal and tab-separated ones into a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    # A licence or a summary may span lines in its source.
    lines = [tuple(" ".join(cell.split()) for cell in row) for row in rows]
    if not console.is_terminal:
        for line in [header, *lines]:
            typer.echo("\t".join(line))
        return
    table = Table(*header, box=box.SIMPLE_HEAD)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
