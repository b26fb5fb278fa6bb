"""A plan's runs as jobs: each a request whose record id says whether it is done."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aimbench.errors import ConfigError
from aimbench.metrics.selectors import SELECTORS
from aimbench.record import Definition, Record, SearchInfo
from aimbench.results.store import Store
from aimbench.sweep.plan import MethodPlan, Plan
from aimbench.train.experiment import Experiment, LoadedBackbone, Request
from aimbench.train.method_source import is_of_other_source

Point = tuple[dict[str, Any], dict[str, Any]]  # settings of the method and of the training


@dataclass(frozen=True)
class Roots:
    """Where a sweep reads and writes. Trials have a store of their own: no table ever shows them."""

    data: Path
    runs: Path
    results: Path
    cards: Path | None = None

    @property
    def trials(self) -> Path:
        """Results root of the trials."""
        return self.results / "trials"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        definition: of its record.
        request: what is run.
        results: root of the store that its record goes to.
        search: how its settings were chosen; None for a trial, or without a search.
    """

    definition: Definition
    request: Request
    results: Path
    search: SearchInfo | None = None

    @property
    def id(self) -> str:
        """Of its record."""
        return self.definition.id

    @property
    def is_done(self) -> bool:
        """Whether its record exists."""
        return Store(self.results).exists(self.id)

    @property
    def is_of_other_source(self) -> bool:
        """Whether its record says that the method's source was another than today's; a broken record says nothing."""
        path = Store(self.results).path(self.definition.dataset.name, self.id)
        try:
            return is_of_other_source(self.request.method, json.loads(path.read_bytes())["code"]["method_source"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def is_started(self) -> bool:
        """Whether a checkpoint waits to be gone on from."""
        name = self.request.dataset.partition("@")[0]
        return (self.request.runs_root / name / self.id / "last.pt").exists()

    @property
    def title(self) -> str:
        """What it runs, on one line."""
        request = self.request
        words = [request.method, request.dataset, request.backbone, f"seed {request.seed}"]
        words += [f"preset {request.preset}"] if request.preset else []
        words += [f"{key}={value}" for key, value in (*request.settings.items(), *request.training.items())]
        return " ".join(words)


@dataclass(frozen=True)
class Cell:
    """One method on one dataset and backbone.

    Attributes:
        points: settings and training of each run, before seeds.
        trials: a search's jobs, one a point; empty without a search.
    """

    method: MethodPlan
    dataset: str
    backbone: str
    points: Sequence[Point]
    trials: Sequence[Job] = ()

    @property
    def title(self) -> str:
        """What it is, on one line."""
        preset = f" {self.method.preset}" if self.method.preset else ""
        return f"{self.method.method}{preset} on {self.dataset}, {self.backbone}"

    @property
    def missing(self) -> int:
        """Trials without a record."""
        return sum(not job.is_done for job in self.trials)


class Planner:
    """Makes a plan's jobs. Every request is checked in full before anything runs.

    Args:
        plan: what to run.
        roots: where.
        options: further fields of every ``Request``, such as ``accelerator``.
    """

    def __init__(self, plan: Plan, roots: Roots, options: dict[str, Any]) -> None:
        self.plan = plan
        self.roots = roots
        self.options = options
        self._backbones: dict[tuple[str, int], LoadedBackbone] = {}
        self.cells = [
            self._searched(Cell(method, dataset, backbone, plan.points(method)))
            for dataset in plan.datasets
            for backbone in plan.backbones
            for method in plan.methods
            if method.datasets is None or dataset in method.datasets
        ]

    def finals(self, cell: Cell) -> list[Job]:
        """The runs whose records tables show; with a search, those of the best trial.

        Raises:
            ConfigError: no trial has a record.
        """
        if self.plan.search is None:
            return [job for point in cell.points for job in self._seeds(cell, point)]
        trials = cell.trials
        scores = {i: score for i, job in enumerate(trials) if (score := _score(job)) is not None}
        if not scores:
            raise ConfigError(f"{cell.title}: no trial has a record to choose from; run the sweep again")
        best = max(scores, key=lambda i: (scores[i], -i))
        search = SearchInfo(
            plan=self.plan.name,
            kind=self.plan.search.kind,
            trials=len(trials),
            finished=len(scores),
            trial=trials[best].id,
            score=scores[best],
            metric=_metric(_record(trials[best])),
        )
        return [replace(job, search=search) for job in self._seeds(cell, cell.points[best])]

    def _searched(self, cell: Cell) -> Cell:
        """The cell with its trials, which leave EPG out."""
        search = self.plan.search
        if search is None:
            return cell
        trials = [self._job(cell, point, search.seed, self.roots.trials, epg_samples=0) for point in cell.points]
        return replace(cell, trials=trials)

    def _seeds(self, cell: Cell, point: Point) -> Iterator[Job]:
        for seed in self.plan.seeds:
            yield self._job(cell, point, seed, self.roots.results, epg_samples=self.plan.epg_samples)

    def _job(
        self,
        cell: Cell,
        point: Point,
        seed: int,
        results: Path,
        *,
        epg_samples: int | None,
    ) -> Job:
        settings, training = point
        request = Request(
            method=cell.method.method,
            dataset=cell.dataset,
            backbone=cell.backbone,
            weights=self.plan.weights,
            seed=seed,
            data_root=self.roots.data,
            runs_root=self.roots.runs,
            selector=self.plan.selector,
            preset=cell.method.preset,
            settings=settings,
            training=training,
            epg_samples=epg_samples,
            cards=self.roots.cards,
            **self.options,
        )
        return Job(Experiment(request, loaded=self._backbone(cell.backbone, seed)).definition, request, results)

    def _backbone(self, name: str, seed: int) -> LoadedBackbone:
        """Loaded once: a plan has hundreds of jobs and a handful of backbones."""
        key = (name, seed if self.plan.weights == "none" else 0)
        if key not in self._backbones:
            self._backbones[key] = LoadedBackbone.load(name, self.plan.weights, seed)
        return self._backbones[key]


def _record(job: Job) -> Record:
    return Store(job.results).get(job.id)


def _score(job: Job) -> float | None:
    """What a trial reached on validation at the epoch that its own selector chose; None without a record."""
    if not job.is_done:
        return None
    record = _record(job)
    return record.selectors[record.selector].val[_metric(record)]


def _metric(record: Record) -> str:
    """The validation metric that a trial is judged by, which follows the labels that its method may select by.

    The worst group's accuracy where the regime reads the groups of the validation split, else what the selector
    maximises. Where groups are classes, the worst of many classes has a few samples, so it decides nothing there.
    """
    if record.method.regime["select"] == "val_groups" and not record.groups_are_classes:
        return "worst_group_accuracy"
    selector = SELECTORS[record.selector]
    return selector.metric if selector.split == "val" else "accuracy"
