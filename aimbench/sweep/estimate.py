"""What a sweep will take, judged by the wall seconds of earlier records."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aimbench.record import Definition, Record
from aimbench.results.store import Store
from aimbench.sweep.jobs import Job, Planner, Roots


@dataclass(frozen=True)
class Line:
    """One or several runs that a sweep will do.

    Attributes:
        kind: ``trial`` or ``final``.
        state: ``recorded``, ``started``, ``to do``, or ``after its trials``.
        title: what runs.
        runs: how many.
        seconds: that they will take together, 0 for what is recorded; None if unknown.
    """

    kind: str
    state: str
    title: str
    runs: int
    seconds: float | None


def forecast(planner: Planner, estimator: "Estimator") -> Iterator[Line]:
    """Every run of a plan, in order. The settings of final runs that wait for trials are not known yet."""
    for cell in planner.cells:
        yield from (_line("trial", job, estimator) for job in cell.trials)
    for cell in planner.cells:
        if not cell.missing:
            yield from (_line("final", job, estimator) for job in planner.finals(cell))
            continue
        runs = len(planner.plan.seeds)
        one = estimator.seconds(cell.trials[0])
        title = f"{cell.title}: the best of {len(cell.trials)} trials, {runs} seeds"
        yield Line("final", "after its trials", title, runs, None if one is None else runs * one)


class Estimator:
    """Median wall seconds of an epoch in earlier runs on the same dataset, with the same part of the same backbone.

    Runs of the same method are asked first; without any, those of all methods. The figure holds for machines like
    those of the earlier runs, and a first run also computes the features that later ones share.

    Args:
        records: of earlier runs.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        for record in records:
            if not record.selected:  # evaluated as it is, not trained here
                continue
            where = _where(record.definition)
            for key in (where, (record.method.name, *where)):
                self._seconds.setdefault(key, []).append(record.cost.wall_seconds / record.training["epochs"])

    @classmethod
    def of(cls, roots: Roots) -> "Estimator":
        """From all records and trials under ``roots``."""
        return cls(record for root in (roots.results, roots.trials) for record in Store(root).find())

    def seconds(self, job: Job) -> float | None:
        """Estimated wall seconds; None if no earlier run is like it."""
        where = _where(job.definition)
        known = self._seconds.get((job.definition.method.name, *where)) or self._seconds.get(where)
        return statistics.median(known) * float(job.definition.training["epochs"]) if known else None


def _where(definition: Definition) -> tuple[str, ...]:
    return (
        definition.dataset.fingerprint,
        definition.backbone.name,
        *(str(definition.training[key]) for key in ("train", "image_size", "augment")),
    )


def _line(kind: str, job: Job, estimator: Estimator) -> Line:
    if job.is_done:
        return Line(kind, "recorded", f"{job.id} {job.title}", 1, 0.0)
    state = "started" if job.is_started else "to do"
    return Line(kind, state, f"{job.id} {job.title}", 1, estimator.seconds(job))
