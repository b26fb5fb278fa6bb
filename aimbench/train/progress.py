"""What a person sees while a run goes on: a live line in a terminal, one plain line an epoch elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from aimbench.spoken_progress import SpokenProgress


class Reporter:
    """Shows progress on a rich console."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator["Task"]:
        """A bar that ends with the block; where there is no terminal, a line now and then."""
        if not self.console.is_terminal:
            yield _SpokenTask(SpokenProgress(title, self.line), total)
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
            yield _BarTask(progress, progress.add_task(title, total=total, note=""))

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line of warning that stays."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)


class Task(Protocol):
    """Running work that is told of each step."""

    def advance(self, amount: int, values: Mapping[str, float] | None = None) -> None:
        """Counts ``amount`` more as done; a bar shows ``values`` behind it."""


class _BarTask:
    def __init__(self, progress: Progress, task_id: TaskID) -> None:
        self._progress = progress
        self._id = task_id

    def advance(self, amount: int, values: Mapping[str, float] | None = None) -> None:
        note = "  ".join(f"{name} {value:.3f}" for name, value in (values or {}).items())
        self._progress.update(self._id, advance=amount, **({"note": note} if note else {}))  # type: ignore[arg-type]


class _SpokenTask:
    def __init__(self, spoken: SpokenProgress, total: int) -> None:
        self._spoken = spoken
        self._total = total
        self._done = 0

    def advance(self, amount: int, values: Mapping[str, float] | None = None) -> None:
        self._done += amount
        self._spoken.move(self._done, self._total)
