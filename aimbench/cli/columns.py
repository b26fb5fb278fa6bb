"""Columns of text, for people and for pipes."""

from collections.abc import Iterable

import typer


def print_columns(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
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
    table = Table(box=box.SIMPLE_HEAD)
    for title in header:
        # Rich would cut a word that is longer than its column.
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
