"""Renders recipes in a pool of processes, in order, with a bounded number in flight."""

import itertools
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from aimbench.data.samples import Recipe, Sample, render
from aimbench.errors import DataError

_CHUNK = 16
"""Recipes that a process takes at a time."""

_IN_FLIGHT = 4
"""Chunks a process that are handed out or wait to be written, so that memory does not grow."""


def rendered(recipes: Iterable[Recipe], workers: int) -> Iterator[Sample]:
    """Renders in order.

    Args:
        recipes: What to render.
        workers: Processes; up to 1 renders in this one.

    Raises:
        DataError: If a recipe can't be rendered, or a process dies.
    """
    if workers <= 1:
        yield from map(render, recipes)
        return
    # Forked processes share the tables and the modules that are loaded already.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        pending: deque[Future[list[Sample]]] = deque()
        try:
            for chunk in _chunks(recipes):
                pending.append(pool.submit(_render_all, chunk))
                if len(pending) >= _IN_FLIGHT * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool:
            raise DataError("a rendering process died (out of memory?); try fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(recipes: Iterable[Recipe]) -> Iterator[list[Recipe]]:
    iterator = iter(recipes)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def _render_all(recipes: list[Recipe]) -> list[Sample]:
    return [render(recipe) for recipe in recipes]


def _end_with(parent: int) -> None:
    """Ends this process when its parent was killed; else it would wait for work for ever and hold the lock."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
