"""Tables of results in a terminal, as wide as it is."""

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from aimbench.results.reference import Reference
    from aimbench.results.tables import Table


def draw_tables(tables: "list[Table]", references: "list[Reference]") -> None:
    """Draws tables with their notes, and published numbers beneath."""
    from rich.console import Console

    from aimbench.results.notes import OF_COST, OF_INTERVAL
    from aimbench.results.render import (
        best_places,
        fits,
        grid,
        narrow_grid,
        reference_grid,
        row_notes,
        run_notes,
        title,
    )

    console = Console()
    for table in tables:
        console.print(title(table), style="bold", markup=False, highlight=False)
        whole = grid(table)
        if fits(whole, console.width):
            _draw_grid(console, whole, best_places(table))
            notes = [*table.notes, *run_notes(table)]
        else:
            narrow, best, left_out = narrow_grid(table, console.width)
            _draw_grid(console, narrow, best)
            notes = [note for note in table.notes if note not in (OF_COST, OF_INTERVAL)]
            if left_out:
                notes.append(f"Left out for want of room (--columns chooses): {', '.join(left_out)}.")
            notes += row_notes(table)
        for note in [*notes, table.id]:
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()
    if references:
        console.print("Published numbers, in percent as printed; not ranked with ours", style="bold")
        _draw_grid(console, reference_grid(references))


def _draw_grid(console: "Console", lines: list[list[str]], bold: Container[tuple[int, int]] = ()) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*lines[0], box=box.SIMPLE_HEAD)
    for number, line in enumerate(lines[1:], 1):
        drawn.add_row(*(Text(cell, "bold" if (number, place) in bold else "") for place, cell in enumerate(line)))
    console.print(drawn)
