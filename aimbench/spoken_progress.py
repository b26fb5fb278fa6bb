"""Progress of long work where no terminal shows a bar: a line now and then, for a log file."""

import time
from collections.abc import Callable

EVERY = 30.0
"""Seconds between two lines; work that is done sooner says none."""


class SpokenProgress:
    """Says how far work has come, at most one line each `EVERY` seconds."""

    def __init__(self, title: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._say = say
        self._clock = clock
        self._last = clock()

    def move(self, done: int, total: int | None) -> None:
        """Called at each step, with how many units are done of how many."""
        if self._clock() - self._last >= EVERY:
            self._last = self._clock()
            self._say(f"{self._title}: {done:,}" + (f" of {total:,}" if total else ""))
