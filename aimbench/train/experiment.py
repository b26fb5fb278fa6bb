"""One experiment from its request to its record: the whole path, read top to bottom."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aimbench.data.dataset import ShardDataset
from aimbench.data.loader import cpu_split
from aimbench.data.sharing import by_first, is_first
from aimbench.data.transforms import TransformConfig
from aimbench.errors import ConfigError
from aimbench.metrics.selectors import SELECTORS, check_headline, selector_scores
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.models.weights import load_weights
from aimbench.needs import GroupCounts
from aimbench.record import BackboneInfo, Definition, MethodInfo, Record
from aimbench.train.attributions import DEFAULT, check_attributions, check_defined
from aimbench.train.cost import cost
from aimbench.train.environment import code_info, environment
from aimbench.train.evaluate import Looked, check_epg_samples, check_ground_truth, look
from aimbench.train.live import make_loggers
from aimbench.train.loop import Trainer
from aimbench.train.method import Method
from aimbench.train.method_source import source_hash
from aimbench.train.predictions import Predictions
from aimbench.train.processes import (
    check_accelerator,
    check_layers,
    check_precision,
    check_processes,
    explains_a_death,
    is_first_by_environment,
    start,
)
from aimbench.train.progress import Reporter
from aimbench.train.registry import get_method
from aimbench.train.scoring import dataset_info, evaluation_settings, group_counts, prediction_table, score
from aimbench.train.sources import RunData


@dataclass(frozen=True)
class Request:
    """What a user asks for on the command line; None takes the default.

    Attributes:
        dataset: ``name`` or ``name@variant``.
        settings: of the method, unchecked.
        training: of ``TrainConfig``, unchecked; only what the user gave.
        epg_samples: size of the fixed subset that EPG is computed on; None takes all, 0 leaves EPG out.
        epg_region: what EPG counts as the object, ``mask`` (boxes where a sample has none) or always ``boxes``.
        attributions: that EPG is computed of, beside the method's own map.
        workers: loader processes; None chooses by the cores.
        cache_gb: memory that decoded photographs may take, over all processes of a machine.
        log: a live view, ``tensorboard`` or ``wandb``; None for the terminal alone.
        devices: processes on each of ``nodes`` machines, with a device each; they share every batch. No part
            of what the run is: its record has the same id.
        compile: run the backbone through torch's compiler. No part of what the run is, either.
    """

    method: str
    dataset: str
    backbone: str
    weights: str
    seed: int
    data_root: Path
    runs_root: Path
    selector: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    epg_samples: int | None = None
    epg_region: str = "mask"
    attributions: tuple[str, ...] = DEFAULT
    cards: Path | None = None
    workers: int | None = None
    cache_gb: float = 4.0
    accelerator: str = "auto"
    log: str | None = None
    devices: int = 1
    nodes: int = 1
    compile: bool = False


@dataclass(frozen=True)
class Result:
    """A finished run: its record and the Parquet files that belong beside it."""

    record: Record
    files: dict[str, bytes]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights, untrained."""

    pyramid: FeaturePyramid
    info: BackboneInfo

    @classmethod
    def load(cls, name: str, weights: str, seed: int) -> "LoadedBackbone":
        """Builds the network; without pretrained weights the seed decides it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pyramid = create_pyramid(name)
        return cls(pyramid, load_weights(pyramid, weights))


class Experiment:
    """A request with everything opened and checked; nothing has been trained yet.

    Args:
        request: what to run.
        reporter: shows progress.
        loaded: the request's backbone, if it is there already: for many definitions of which none is run.
    """

    def __init__(
        self, request: Request, reporter: Reporter | None = None, *, loaded: LoadedBackbone | None = None
    ) -> None:
        self.request = request
        self.reporter = reporter or Reporter()
        check_accelerator(request.accelerator)
        method_class = get_method(request.method)
        self.method: Method = method_class(method_class.configure(request.settings, request.preset))
        self._source = source_hash(method_class.__module__)
        self.dataset = ShardDataset.open(request.dataset, request.data_root, request.cards)
        self.method.check(self._group_counts())
        self._without_object = self._check_objects()
        self.config = method_class.configure_training(request.training)
        self.method.check_training(self.config, compiled=request.compile)
        check_processes(self.method, self.config.loader, request.devices, request.nodes)
        self.selector = request.selector or self.dataset.card.default_selector
        check_headline(self.selector)
        check_epg_samples(request.epg_samples)
        self.attributions = check_attributions(request.attributions)
        self.ground_truth = check_ground_truth(request.epg_region, self.method.regime.fields)
        loaded = loaded or LoadedBackbone.load(request.backbone, request.weights, request.seed)
        self.pyramid, self.backbone = loaded.pyramid, loaded.info
        self.pyramid.check_image_size(self.config.image_size)
        check_defined(self.attributions, self.pyramid)
        self._pretrained = {name: value.clone() for name, value in self.pyramid.state_dict().items()}
        self.definition = self._define()
        self.folder = request.runs_root / self.dataset.name / self.definition.id

    @property
    def id(self) -> str:
        """Of the record that this experiment will give."""
        return self.definition.id

    @property
    def is_started(self) -> bool:
        """Whether an earlier session left a checkpoint to go on from."""
        return (self.folder / "last.pt").exists()

    @property
    def is_rerun(self) -> bool:
        """Whether an earlier session began to run this anew and has not ended."""
        return self._rerun_mark.exists()

    @property
    def _rerun_mark(self) -> Path:
        return self.folder / "rerun"

    def run(self, *, fresh: bool = False, rerun: bool = False) -> Result:
        """Trains, evaluates, and returns the record, in every process.

        Args:
            fresh: forget earlier checkpoints, else go on from the last.
            rerun: forget those of a finished run; go on with a rerun that was stopped, until ``end_rerun``.
        """
        fresh = fresh or (rerun and not self.is_rerun)
        with explains_a_death(self.folder):
            return self._run(fresh=fresh, rerun=rerun)

    def end_rerun(self) -> None:
        """Says that the record is written: the next rerun starts over."""
        self._rerun_mark.unlink(missing_ok=True)

    def _run(self, *, fresh: bool, rerun: bool) -> Result:
        started = time.perf_counter()
        if self._without_object:
            self.reporter.warn(
                f"up to {self._without_object:.1%} of the samples have neither mask nor box; "
                f"'{self.method.name}' does not know where their object is"
            )
        trainer = self.trainer(fresh=fresh)
        if rerun:
            self._rerun_mark.touch()
        status = "failed"
        try:
            trainer.fit()
            status = "success"
        finally:
            for logger in trainer.fabric.loggers:
                logger.finalize(status)
        predictions = trainer.final_predictions()
        looked = self._look(trainer)
        seconds = trainer.earlier_seconds + time.perf_counter() - started
        record = self._record(trainer, predictions, looked, seconds)
        files = {
            "predictions": prediction_table(self.dataset, predictions, looked),
            "epochs": trainer.epochs.table(),
        }
        return Result(record, files)

    def trainer(self, *, fresh: bool = False, opened: bool = False) -> Trainer:
        """The training loop of this experiment, with its model built.

        Args:
            fresh: forget earlier checkpoints.
            opened: the run is there to be looked at: nothing is written to its folder.
        """
        request = self.request
        if not opened:
            check_precision(self.config.precision, request.accelerator)
        loggers = make_loggers(request.log, self.folder, self.id) if is_first_by_environment() else []
        fabric = start(request.accelerator, self.config.precision, request.devices, request.nodes, loggers)
        self.reporter.console.quiet = self.reporter.console.quiet or not is_first()
        pixels = self.config.augment or self.method.needs_images or self.config.loader == "stream"
        frozen = self.config.train == "head" and not pixels
        on_gpu = fabric.device.type != "cpu"
        threads, workers = cpu_split(request.workers, on_gpu=on_gpu, processes=request.devices)
        if not on_gpu:
            torch.set_num_threads(threads)
        model = self._build()
        if request.devices * request.nodes > 1:
            check_layers(model, self.pyramid.name, trained=self.config.train != "head")
        data = RunData(
            self.dataset,
            self.transform,
            self.pyramid.to(fabric.device),
            entries=model.head.cached_entries,
            frozen=frozen,
            fields=self.method.regime.fields,
            batch_size=self.config.batch_size,
            stream=self.config.loader == "stream",
            crop_later=self.config.augment_on == "device",
            data_root=self.request.data_root,
            own_root=self.request.runs_root,
            workers=workers,
            cache_bytes=int(request.cache_gb * 1e9 / request.devices),
            device=fabric.device,
            reporter=self.reporter,
        )
        if not opened:
            by_first(lambda: self._prepare_folder(fresh=fresh))
        return Trainer(
            fabric,
            self.method,
            self._build,
            data,
            self.config,
            seed=self.request.seed,
            selector=self.selector,
            folder=self.folder,
            reporter=self.reporter,
            compile=request.compile,
        )

    def _prepare_folder(self, *, fresh: bool) -> None:
        if fresh and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "method_source").write_text(self._compare_source())
        (self.folder / "definition.json").write_text(self.definition.model_dump_json(indent=1))
        (self.folder / "request.json").write_text(json.dumps(asdict(self.request), default=str, indent=1))

    @property
    def _kept_source(self) -> str | None:
        """What the run's folder says of the source that trained it so far; None if it says nothing."""
        path = self.folder / "method_source"
        return path.read_text() if path.exists() else None

    def _compare_source(self) -> str:
        """The hash of the method's source, or what it is not known to be alone where an earlier session had another."""
        if not self.is_started or self._kept_source == self._source:
            return self._source
        if self._kept_source is None:
            return "unknown"  # begun before folders kept it
        self.reporter.warn(
            f"the source of method '{self.method.name}' has changed since this run began, and the run goes on with both"
            " (--fresh starts over)"
        )
        return "mixed"

    @property
    def transform(self) -> TransformConfig:
        """Of training images, from the card, the backbone and the image size."""
        card = self.dataset.card.transforms
        return TransformConfig(
            image_size=self.config.image_size,
            mean=self.pyramid.mean,
            std=self.pyramid.std,
            resize_ratio=card.eval_resize / card.eval_crop,
            augment=self.config.augment,
            crop_scale=card.train_crop_scale,
            flip=card.train_flip,
        )

    def _build(self) -> Classifier:
        self.pyramid.load_state_dict(self._pretrained)
        head = self.method.build(self.pyramid, len(self.dataset.manifest.classes), frozen=self.config.train == "head")
        return Classifier(self.pyramid, head)

    def _define(self) -> Definition:
        return Definition(
            method=MethodInfo(
                name=self.method.name,
                source=self.method.source,
                config=self.method.defining(),
                regime=self._regime(),
            ),
            dataset=dataset_info(self.dataset),
            backbone=self.backbone,
            training=self.config.defining(),
            evaluation=evaluation_settings(
                self.dataset, self.transform, self.request.epg_samples, self.attributions, self.ground_truth
            ),
            seed=self.request.seed,
            selector=self.selector,
        )

    def _regime(self) -> dict[str, Any]:
        """The method's regime; a selector that reads groups adds them to it."""
        regime = self.method.regime.model_dump()
        return {**regime, "select": "val_groups"} if SELECTORS[self.selector].uses_groups else regime

    def _group_counts(self) -> GroupCounts:
        manifest = self.dataset.manifest
        train, val = (group_counts(self.dataset, split) for split in ("train", "val"))
        return GroupCounts(len(manifest.classes), manifest.groups, train, val)

    def _check_objects(self) -> float:
        """The share of samples, at most, without a mask or a box, of a method that reads them.

        Raises:
            ConfigError: no sample has either.
        """
        if "mask" not in self.method.regime.fields:
            return 0.0
        truth = self.dataset.manifest.ground_truth
        known = max(truth.share_with_mask, truth.share_with_boxes or 0.0)
        if known == 0:
            raise ConfigError(
                f"method '{self.method.name}' reads each object's mask or box, and {self.dataset.name}@"
                f"{self.dataset.variant} has neither; choose a dataset that has ('aimbench list datasets')"
            )
        return 1 - known

    def _look(self, trainer: Trainer) -> Looked | None:
        count = self.request.epg_samples
        if count == 0:
            return None
        return look(
            trainer.fabric,
            trainer.model,
            self.method,
            trainer.data,
            "test",
            count,
            self.reporter,
            self.attributions,
            ground_truth=self.ground_truth,
        )

    def _record(
        self, trainer: Trainer, predictions: Mapping[str, Predictions], looked: Looked | None, seconds: float
    ) -> Record:
        chosen = trainer.chosen()
        return Record(
            id=self.id,
            **{name: getattr(self.definition, name) for name in Definition.model_fields},
            selected={"phase": chosen["phase"], "epoch": chosen["epoch"]},
            metrics=score(self.dataset, predictions, looked),
            selectors=selector_scores(trainer.scores()),
            phases=trainer.clock.log,
            cost=cost(
                trainer.model,
                self.config.image_size,
                seconds=seconds,
                step_seconds=trainer.clock.seconds,
                images=trainer.clock.images,
            ),
            code=code_info(self._source if self._kept_source == self._source else None),
            environment=self._environment(trainer.fabric.device),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _environment(self, device: torch.device) -> dict[str, Any]:
        asked = self.request
        return environment(device, torch.get_num_threads(), asked.devices, asked.nodes, compiled=asked.compile)
