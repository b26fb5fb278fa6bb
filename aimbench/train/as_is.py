"""A classifier as it is, evaluated without training."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from aimbench.data.dataset import ShardDataset
from aimbench.data.loader import cpu_split
from aimbench.data.transforms import TransformConfig
from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid
from aimbench.record import BackboneInfo, Cost, Definition, MethodInfo, Record
from aimbench.train.attributions import DEFAULT, check_attributions, check_defined
from aimbench.train.config import TrainConfig
from aimbench.train.cost import cost
from aimbench.train.environment import code_info, environment
from aimbench.train.evaluate import BATCH, check_epg_samples, check_ground_truth, look
from aimbench.train.experiment import Result
from aimbench.train.inference import Inference
from aimbench.train.predictions import Predictions
from aimbench.train.processes import check_accelerator, start
from aimbench.train.progress import Reporter
from aimbench.train.scoring import dataset_info, evaluation_settings, prediction_table, score
from aimbench.train.sources import RunData
from aimbench.train.subjects import SELECTOR, Library, Subject, network, run_checkpoint


@dataclass(frozen=True)
class AsIsRequest:
    """What a user asks for.

    Attributes:
        dataset: ``name`` or ``name@variant``.
        library: that makes ``network``; None: ``checkpoint`` is one of a run of ours.
        network: the library's name of it.
        checkpoint: state dict with the network's classifier; None: the library's own weights.
        name: of the method in the record; None: the network's, or the run's method.
        classes: names of the classifier's outputs, one a line; None: ImageNet's.
        train_labels: labels that ``network`` was trained with, as a regime's ``train``.
        image_size: side of the input, pixels; None: the run's, or 224.
        runs_root: holds what cannot be written beside the data.
        epg_samples, epg_region: as in ``experiment.Request``.
    """

    dataset: str
    data_root: Path
    runs_root: Path
    library: Library | None = None
    network: str | None = None
    checkpoint: Path | None = None
    name: str | None = None
    classes: Path | None = None
    train_labels: str = "class"
    image_size: int | None = None
    epg_samples: int | None = None
    epg_region: str = "mask"
    attributions: tuple[str, ...] = DEFAULT
    cards: Path | None = None
    workers: int | None = None
    accelerator: str = "auto"


class AsIs:
    """A request with the dataset opened and the classifier built on the dataset's classes."""

    def __init__(self, request: AsIsRequest, reporter: Reporter | None = None) -> None:
        self.request = request
        self.reporter = reporter or Reporter()
        check_accelerator(request.accelerator)
        check_epg_samples(request.epg_samples)
        self.attributions = check_attributions(request.attributions)
        self.dataset = ShardDataset.open(request.dataset, request.data_root, request.cards)
        self.subject = self._subject()
        check_defined(self.attributions, self.subject.model.pyramid)
        self.ground_truth = check_ground_truth(request.epg_region, self.subject.fields)
        self.image_size = request.image_size or self.subject.image_size
        self.subject.model.pyramid.check_image_size(self.image_size)
        self.transform = evaluation_transform(self.dataset, self.subject.model.pyramid, self.image_size)
        self.definition = external_definition(
            self.dataset,
            info=self.subject.info,
            backbone=self.subject.backbone,
            training=self.subject.training,
            evaluation=evaluation_settings(
                self.dataset, self.transform, request.epg_samples, self.attributions, self.ground_truth
            ),
            seed=self.subject.seed,
            selector=self.subject.selector,
        )

    @property
    def id(self) -> str:
        """Of the record that this evaluation will give."""
        return self.definition.id

    def run(self) -> Result:
        """Predicts the splits that methods do not train on, scores where it looks on test, returns the record."""
        started = time.perf_counter()
        fabric = start(self.request.accelerator, "32-true", devices=1, nodes=1)
        model = self.subject.model.requires_grad_(False).to(fabric.device).to(memory_format=torch.channels_last)
        data = self._data(fabric)
        config = TrainConfig(batch_size=BATCH, image_size=self.image_size, channels_last=True)
        inference = Inference(fabric, data, config, self.reporter)
        looked, known = None, dict[str, Predictions]()
        if self.request.epg_samples != 0:
            looked = look(
                fabric,
                model,
                self.subject.method,
                data,
                "test",
                self.request.epg_samples,
                self.reporter,
                self.attributions,
                ground_truth=self.ground_truth,
            )
            if looked.said is not None and len(looked.index) == len(self.dataset.split("test")):
                known = {"test": looked.said}  # out of the same pass
        # Of another dataset too: a head that was fitted on a validation split is compared on test alone.
        trained_on = {"train"} | ({"val"} if self.subject.info.regime.get("train") == "val_groups" else set())
        splits = [split for split in self.dataset.splits if split not in trained_on]
        predictions = {split: known.get(split) or inference.predict(model, split) for split in splits}
        record = external_record(
            self.definition,
            score(self.dataset, predictions, looked),
            cost(model, self.image_size, seconds=time.perf_counter() - started),
            environment(fabric.device, torch.get_num_threads()),
        )
        return Result(record, {"predictions": prediction_table(self.dataset, predictions, looked)})

    def _data(self, fabric: Fabric) -> RunData:
        on_gpu = fabric.device.type != "cpu"
        threads, workers = cpu_split(self.request.workers, on_gpu=on_gpu)
        if not on_gpu:
            torch.set_num_threads(threads)
        return RunData(
            self.dataset,
            self.transform,
            self.subject.model.pyramid,
            entries=self.subject.model.head.stages,
            frozen=False,
            fields=self.subject.fields,
            batch_size=BATCH,
            stream=False,
            data_root=self.request.data_root,
            own_root=self.request.runs_root,
            workers=workers,
            cache_bytes=0,
            device=fabric.device,
            reporter=self.reporter,
        )

    def _subject(self) -> Subject:
        request = self.request
        if request.library is not None and request.network is not None:
            return network(
                self.dataset,
                request.library,
                request.network,
                "auto" if request.checkpoint is None else str(request.checkpoint),
                method_name=request.name or request.network,
                classes=request.classes,
                train_labels=request.train_labels,
            )
        if request.checkpoint is None:
            raise ConfigError("nothing to evaluate: give a network of timm's or torchvision's, or a run's checkpoint")
        found = run_checkpoint(self.dataset, request.checkpoint, data_root=request.data_root, cards=request.cards)
        if request.name is None:
            return found
        return replace(found, info=found.info.model_copy(update={"name": request.name}))


def evaluation_transform(dataset: ShardDataset, pyramid: FeaturePyramid, image_size: int) -> TransformConfig:
    """The card's evaluation transform with the network's normalisation."""
    card = dataset.card.transforms
    return TransformConfig(
        image_size=image_size, mean=pyramid.mean, std=pyramid.std, resize_ratio=card.eval_resize / card.eval_crop
    )


def external_definition(
    dataset: ShardDataset,
    *,
    info: MethodInfo,
    backbone: BackboneInfo,
    training: dict[str, Any],
    evaluation: dict[str, Any],
    seed: int = 0,
    selector: str = SELECTOR,
) -> Definition:
    """The definition of what is evaluated as it is; ``training`` says ``external``."""
    return Definition(
        method=info,
        dataset=dataset_info(dataset),
        backbone=backbone,
        training=training,
        evaluation=evaluation,
        seed=seed,
        selector=selector,
    )


def external_record(definition: Definition, metrics: dict[str, Any], cost: Cost, where: dict[str, Any]) -> Record:
    """The record of an external definition."""
    return Record(
        id=definition.id,
        **{name: getattr(definition, name) for name in Definition.model_fields},
        selected={},
        metrics=metrics,
        cost=cost,
        code=code_info(),
        environment=where,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
