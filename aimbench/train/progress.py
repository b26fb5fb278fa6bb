"""What a person sees while a run goes on: a live line in a terminal, one plain line an epoch elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Shows progress on a rich console."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator["Task"]:
        """A bar that ends with the block; nothing is shown where there is no terminal."""
        if not self.console.is_terminal:
            yield Task()
            return
        columns = (
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield Task(progress, progress.add_task(title, total=total, note=""))

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """One line of warning that stays."""
        self.console.print(f"[yellow]warning:[/yellow] {text}", highlight=False)


class Task:
    """A running bar, or one that is not shown."""

    def __init__(self, progress: Progress | None = None, task_id: TaskID = TaskID(0)) -> None:
        self._progress = progress
        self._id = task_id

    def advance(self, amount: int, values: Mapping[str, float] | None = None) -> None:
        """Moves the bar on and shows ``values`` behind it."""
        if self._progress is None:
            return
        note = "  ".join(f"{name} {value:.3f}" for name, value in (values or {}).items())
        self._progress.update(self._id, advance=amount, **({"note": note} if note else {}))  # type: ignore[arg-type]
