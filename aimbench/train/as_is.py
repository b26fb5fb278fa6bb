"""A classifier as it is, evaluated without training: a network of timm's, or a checkpoint of somebody else's."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from aimbench.data.dataset import ShardDataset
from aimbench.data.loader import cpu_split
from aimbench.data.transforms import TransformConfig
from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.class_names import match_classes, output_names
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.models.weights import classifier_names, full_state, load_body
from aimbench.record import BackboneInfo, Cost, Definition, MethodInfo, Record
from aimbench.train.attributions import DEFAULT, check_attributions
from aimbench.train.config import TrainConfig
from aimbench.train.environment import code_info, environment, peak_memory_mb
from aimbench.train.evaluate import BATCH, look
from aimbench.train.experiment import Result, gmacs
from aimbench.train.method import Method, MethodConfig
from aimbench.train.predictions import Inference
from aimbench.train.progress import Reporter
from aimbench.train.scoring import dataset_info, evaluation_settings, prediction_table, score
from aimbench.train.sources import RunData

SELECTOR = "none"
"""What a record names as selector where no epoch was chosen."""


@dataclass(frozen=True)
class AsIsRequest:
    """What a user asks for.

    Attributes:
        name: of the method in the record.
        dataset: ``name`` or ``name@variant``.
        network: timm's name.
        weights: ``auto`` (timm's, with their classifier) or a state-dict file.
        classes: names of the classifier's outputs, one a line; None: ImageNet's.
        train_labels: labels that the model was trained with, as a regime's ``train``.
        epg_samples: as in ``experiment.Request``.
    """

    name: str
    dataset: str
    network: str
    weights: str
    data_root: Path
    classes: Path | None = None
    train_labels: str = "class"
    image_size: int = 224
    epg_samples: int | None = None
    attributions: tuple[str, ...] = DEFAULT
    cards: Path | None = None
    workers: int | None = None
    accelerator: str = "auto"


class AsIs:
    """A request with the dataset opened and the classifier built on the dataset's classes."""

    def __init__(self, request: AsIsRequest, reporter: Reporter | None = None) -> None:
        self.request = request
        self.reporter = reporter or Reporter()
        self.attributions = check_attributions(request.attributions)
        self.dataset = ShardDataset.open(request.dataset, request.data_root, request.cards)
        self.model, self.backbone, self.outputs = self._build()
        self.transform = evaluation_transform(self.dataset, self.model.pyramid, request.image_size)
        self.definition = external_definition(
            self.dataset,
            name=request.name,
            backbone=self.backbone,
            train_labels=request.train_labels,
            training={"external": "a model as it is", "outputs": self.outputs},
            evaluation=evaluation_settings(self.dataset, self.transform, request.epg_samples, self.attributions),
        )

    @property
    def id(self) -> str:
        """Of the record that this evaluation will give."""
        return self.definition.id

    def run(self) -> Result:
        """Predicts every split but train, scores where the model looks on the test split, returns the record."""
        started = time.perf_counter()
        fabric = Fabric(accelerator=self.request.accelerator, devices=1)
        model = self.model.to(fabric.device)
        data = self._data(fabric)
        config = TrainConfig(batch_size=BATCH, image_size=self.request.image_size, channels_last=False)
        inference = Inference(fabric, data, config, self.reporter)
        predictions = {split: inference.predict(model, split) for split in self.dataset.splits if split != "train"}
        looked = None
        if self.request.epg_samples != 0:
            method = Method(MethodConfig())
            looked = look(
                fabric, model, method, data, "test", self.request.epg_samples, self.reporter, self.attributions
            )
        parameters = sum(p.numel() for p in model.parameters())
        cost = Cost(
            parameters=parameters,
            trainable_parameters=0,
            gmacs=gmacs(model, self.request.image_size),
            wall_seconds=round(time.perf_counter() - started, 2),
            peak_memory_mb=round(peak_memory_mb(fabric.device), 1),
        )
        record = external_record(
            self.definition,
            score(self.dataset, predictions, looked),
            cost,
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
            self.model.pyramid,
            entries=self.model.head.stages,
            frozen=False,
            fields=frozenset(),
            batch_size=BATCH,
            stream=False,
            data_root=self.request.data_root,
            workers=workers,
            cache_bytes=0,
            device=fabric.device,
            reporter=self.reporter,
        )

    def _build(self) -> tuple[Classifier, BackboneInfo, list[int]]:
        if self.request.weights == "none":
            raise ConfigError("a network without weights has nothing to evaluate; give --checkpoint FILE")
        pyramid = create_pyramid(self.request.network)
        state, origin = full_state(pyramid, self.request.weights)
        backbone = load_body(pyramid, state, origin)
        weight, bias = _classifier(pyramid, state, origin)
        names = output_names(self.request.classes, len(weight))
        chosen = match_classes(self.dataset.manifest.classes, _wnids(self.dataset), names)
        head = LinearHead(pyramid, len(chosen))
        if weight.shape[1] != pyramid.embed_dim:
            raise ConfigError(
                f"weights from {origin}: the classifier reads {weight.shape[1]} features, '{pyramid.name}' gives"
                f" {pyramid.embed_dim}; they belong to another network"
            )
        with torch.no_grad():
            head.classifier.weight.copy_(weight[chosen])
            head.classifier.bias.copy_(torch.zeros(len(chosen)) if bias is None else bias[chosen])
        return Classifier(pyramid, head).eval(), backbone, chosen


def evaluation_transform(dataset: ShardDataset, pyramid: FeaturePyramid, image_size: int) -> TransformConfig:
    """The card's evaluation transform with the network's normalisation."""
    card = dataset.card.transforms
    return TransformConfig(
        image_size=image_size, mean=pyramid.mean, std=pyramid.std, resize_ratio=card.eval_resize / card.eval_crop
    )


def external_definition(
    dataset: ShardDataset,
    *,
    name: str,
    backbone: BackboneInfo,
    train_labels: str,
    training: dict[str, Any],
    evaluation: dict[str, Any],
) -> Definition:
    """The definition of something that this harness did not train; ``training`` says ``external``."""
    return Definition(
        method=MethodInfo(
            name=name,
            source="external: not trained by aimbench",
            config={},
            regime={"train": train_labels, "select": "none"},
        ),
        dataset=dataset_info(dataset),
        backbone=backbone,
        training=training,
        evaluation=evaluation,
        seed=0,
        selector=SELECTOR,
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


def _classifier(pyramid: FeaturePyramid, state: dict[str, Tensor], origin: str) -> tuple[Tensor, Tensor | None]:
    names = classifier_names(pyramid)
    if len(names) != 1 or f"{names[0]}.weight" not in state:
        wanted = " and ".join(names) or "one"
        raise ConfigError(
            f"weights from {origin} hold no classifier that can be read as it is (looked for {wanted});"
            " 'aimbench run' trains one"
        )
    weight, bias = state[f"{names[0]}.weight"], state.get(f"{names[0]}.bias")
    return weight.flatten(1).float(), None if bias is None else bias.float()


def _wnids(dataset: ShardDataset) -> list[str] | None:
    """WordNet ids of the dataset's classes, where its card's class folders are named by them."""
    folders = dataset.card.variant(dataset.variant).options.get("class_folders")
    return list(folders) if folders and len(folders) == len(dataset.manifest.classes) else None
