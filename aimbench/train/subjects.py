"""What ``aimbench evaluate`` can evaluate as it is: a network with its own classifier, or a checkpoint of a run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aimbench.data.dataset import ShardDataset
from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid, create_pyramid
from aimbench.models.class_names import match_classes, output_names
from aimbench.models.classifier import Classifier, Head, LinearHead, Output
from aimbench.models.torchvision_networks import TorchvisionHead, TorchvisionNetwork
from aimbench.models.weights import full_state, load_body, parameters_hash
from aimbench.record import BackboneInfo, MethodInfo
from aimbench.train.method import Method, MethodConfig
from aimbench.train.opened import open_checkpoint

SELECTOR = "none"
"""What a record names as selector where no epoch was chosen."""
IMAGE_SIZE = 224

Library = Literal["timm", "torchvision"]


@dataclass(frozen=True)
class Subject:
    """A classifier whose outputs are the classes of the dataset that it is evaluated on.

    Attributes:
        model: in evaluation mode.
        method: for its own map.
        info: the method, as the record names it.
        training: where the classifier comes from, for the record; says ``external``.
        image_size: side of the network's input that it was made for, pixels.
        fields: batch entries that the method's regime opens.
        seed: that it was trained with.
        selector: that chose it.
    """

    model: Classifier
    method: Method
    info: MethodInfo
    backbone: BackboneInfo
    training: dict[str, Any]
    image_size: int = IMAGE_SIZE
    fields: frozenset[str] = field(default_factory=frozenset)
    seed: int = 0
    selector: str = SELECTOR


def network(
    dataset: ShardDataset,
    library: Library,
    name: str,
    weights: str,
    *,
    method_name: str,
    classes: Path | None,
    train_labels: str,
) -> Subject:
    """A network of timm's or torchvision's with its own classifier.

    Args:
        dataset: its classes are looked for among the classifier's outputs.
        library: that makes the network.
        name: the library's.
        weights: ``auto`` (the library's own) or a state-dict file.
        method_name: in the record.
        classes: names of the classifier's outputs, one a line; None: ImageNet's.
        train_labels: that it was trained with, as a regime's ``train``.

    Raises:
        ConfigError: the network or its weights cannot be had, they do not fit, or a class has no output.
    """
    pyramid = TorchvisionNetwork(name) if library == "torchvision" else create_pyramid(name)
    state, origin = full_state(pyramid, weights)
    backbone = load_body(pyramid, state, origin)
    weight, bias = _classifier(pyramid, state, origin)
    names = output_names(classes, len(weight))
    chosen = match_classes(dataset.manifest.classes, _wnids(dataset), names)
    if weight.shape[1] != pyramid.embed_dim:
        raise ConfigError(
            f"weights from {origin}: the classifier reads {weight.shape[1]} features, '{pyramid.name}' gives"
            f" {pyramid.embed_dim}; they belong to another network"
        )
    head = (TorchvisionHead if library == "torchvision" else LinearHead)(pyramid, len(chosen))
    head.set_linear(weight[chosen], torch.zeros(len(chosen)) if bias is None else bias[chosen])
    return Subject(
        model=Classifier(pyramid, head).eval(),
        method=Method(MethodConfig()),
        info=external_method(method_name, train_labels),
        backbone=backbone,
        training={
            "external": "a model as it is",
            "outputs": chosen,
            "classifier": parameters_hash(head)[:16],
        },
    )


def run_checkpoint(dataset: ShardDataset, file: Path, *, data_root: Path, cards: Path | None) -> Subject:
    """A checkpoint of a run, on its own dataset or on another that has the same classes.

    Args:
        dataset: its classes are looked for among those of the run's dataset, by name.
        file: in the run's folder.
        data_root: of shards; the dataset that the run was trained on must be there too.
        cards: folder of further cards.

    Raises:
        ConfigError: as ``open_checkpoint``, or a class of ``dataset`` is none of the run's.
    """
    experiment, trainer = open_checkpoint(file, data_root=data_root, cards=cards)
    outputs = experiment.dataset.manifest.classes
    chosen = match_classes(dataset.manifest.classes, None, outputs)
    model = trainer.model
    if chosen != list(range(len(outputs))):
        model = Classifier(model.pyramid, ChosenOutputs(model.head, chosen)).eval()
    definition = experiment.definition
    source = definition.dataset
    return Subject(
        model=model,
        method=experiment.method,
        info=definition.method,
        backbone=definition.backbone,
        training={
            "external": "a checkpoint of a run",
            "run": definition.id,
            "checkpoint": file.name,
            "state": parameters_hash(trainer.model)[:16],
            "trained_on": f"{source.name}@{source.variant}, {source.kind}, fingerprint {source.fingerprint}",
        },
        image_size=experiment.config.image_size,
        fields=experiment.method.regime.fields,
        seed=definition.seed,
        # What the selector chose is in selected.pt alone; last.pt is the last finished epoch.
        selector=definition.selector if file.name == "selected.pt" else SELECTOR,
    )


def external_method(name: str, train_labels: str) -> MethodInfo:
    """A method that this harness did not train with, as a record names it."""
    return MethodInfo(
        name=name,
        source="external: not trained by aimbench",
        config={},
        regime={"train": train_labels, "select": "none"},
    )


class ChosenOutputs(Head):
    """Some outputs of a head, in another order."""

    def __init__(self, head: Head, chosen: list[int]) -> None:
        super().__init__()
        self.head = head
        self.stages, self.reads_mask = head.stages, head.reads_mask
        self._chosen = chosen

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """The head's output with the chosen logits."""
        output: Output = self.head(features, mask) if self.reads_mask else self.head(features)
        stages = {name: logits[:, self._chosen] for name, logits in output.stage_logits.items()}
        return replace(output, logits=output.logits[:, self._chosen], stage_logits=stages)


def _classifier(pyramid: FeaturePyramid, state: dict[str, Tensor], origin: str) -> tuple[Tensor, Tensor | None]:
    names = pyramid.classifiers
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
