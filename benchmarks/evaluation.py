"""Evaluation with EPG of GradCAM and input x gradient: against plain accuracy, and against captum image by image.

python benchmarks/evaluation.py --dataset waterbirds@95 --data data
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, LayerGradCam
from lightning_fabric import Fabric
from measure import alternate, row, write
from torch import nn

from aimbench.data.dataset import ShardDataset
from aimbench.metrics.epg import energy_pointing_game
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier, LinearHead
from aimbench.models.weights import load_weights
from aimbench.train.as_is import evaluation_transform
from aimbench.train.attributions import attribute
from aimbench.train.evaluate import BATCH
from aimbench.train.method import Method, MethodConfig
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()
    bench = setup(options)
    sides: dict[str, Callable[[], float]] = {
        "accuracy": lambda: timed(accuracy, bench),
        "accuracy and EPG": lambda: timed(accuracy_and_epg, bench),
        "captum, image by image": lambda: timed(captum_loop, bench),
    }
    seconds = alternate(sides, options.repeats)
    where = f"{options.images} photographs of {options.dataset} at {options.size} px, tf_efficientnet_lite0"
    rows = [
        row(f"evaluation with EPG against accuracy alone, {where}", seconds, "accuracy and EPG", "accuracy", 3),
        row(f"EPG in batches against captum, {where}", seconds, "captum, image by image", "accuracy and EPG", 5),
    ]
    write("evaluation", rows, load)


def setup(options: argparse.Namespace) -> SimpleNamespace:
    dataset = ShardDataset.open(options.dataset, options.data)
    pyramid = create_pyramid("tf_efficientnet_lite0")
    load_weights(pyramid, "auto")
    model = Classifier(pyramid, LinearHead(pyramid, len(dataset.manifest.classes))).eval()
    model = model.to(memory_format=torch.channels_last)  # as a run evaluates
    data = RunData(
        dataset,
        evaluation_transform(dataset, pyramid, options.size),
        pyramid,
        entries=model.head.stages,
        frozen=False,
        fields=frozenset(),
        batch_size=BATCH,
        stream=False,
        data_root=options.data,
        workers=0,
        cache_bytes=0,
        device=Fabric(accelerator="cpu").device,
        reporter=Reporter(),
    )
    return SimpleNamespace(model=model, data=data, order=np.arange(options.images))


def timed(evaluate: Callable[[Any], None], bench: Any) -> float:
    started = time.perf_counter()
    evaluate(bench)
    return time.perf_counter() - started


@torch.inference_mode()
def accuracy(bench: Any) -> None:
    """Decodes, predicts, counts."""
    for batch in bench.data.photographs("test", BATCH, region=False).epoch(bench.order, seed=0):
        logits = bench.model.predict(bench.model.features(laid_out(batch.image))).logits
        (logits.argmax(dim=1) == batch.label).sum()


def accuracy_and_epg(bench: Any) -> None:
    """Decodes, predicts, counts and scores both maps, out of the same pass."""
    method = Method(MethodConfig())
    for batch in bench.data.photographs("test", BATCH, region=True).epoch(bench.order, seed=0):
        seen = attribute(bench.model, method, laid_out(batch.image), batch.label)
        (seen.output.logits.argmax(dim=1) == batch.label).sum()
        for map_ in seen.maps.values():
            energy_pointing_game(map_, batch.mask[:, 0])


def captum_loop(bench: Any) -> None:
    """The same two maps as most evaluations compute them: one image and one map at a time."""
    network = Plain(bench.model)
    gradcam = LayerGradCam(network, bench.model.pyramid.network.bn2)
    gradient = InputXGradient(network)
    for batch in bench.data.photographs("test", BATCH, region=True).epoch(bench.order, seed=0):
        for image, label, region in zip(laid_out(batch.image), batch.label, batch.mask, strict=True):
            target = int(label)
            with torch.no_grad():
                network(image[None]).argmax(dim=1)
            maps = [
                gradcam.attribute(image[None], target=target, relu_attributions=True)[:, 0],
                gradient.attribute(image[None].clone().requires_grad_(), target=target).sum(dim=1),
            ]
            for map_ in maps:
                energy_pointing_game(map_.detach(), region)


def laid_out(image: torch.Tensor) -> torch.Tensor:
    return image.contiguous(memory_format=torch.channels_last)


class Plain(nn.Module):
    """The classifier from images to logits, as captum wants it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model.predict(self.model.features(image)).logits


if __name__ == "__main__":
    main()
