"""Evaluation with EPG of GradCAM and input x gradient: against plain accuracy, and against captum image by image.

python benchmarks/evaluation.py --dataset waterbirds@95 --data data

Accuracy and EPG is the engine's own ``look``, whose pass gives the predictions, too. Accuracy alone is measured in the
batches that the engine takes for it, and in the small ones that suit a CPU's cache. The captum loop is what its
tutorials show: one image at a time, in torch's default memory layout. Seconds are processor time of one thread, which
other programs on the machine disturb little.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from aimbench.train.evaluate import BATCH, CPU_BATCH, evaluated_positions, look
from aimbench.train.method import Method, MethodConfig
from aimbench.train.progress import Reporter
from aimbench.train.sources import RunData

EPG, CAPTUM = "accuracy and EPG", "captum, image by image"
ALONE = {size: f"accuracy alone, batches of {size}" for size in (2 * BATCH, CPU_BATCH)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()
    torch.set_num_threads(1)
    bench = setup(options)
    sides: dict[str, Callable[[], float]] = {
        **{name: partial(timed, partial(accuracy, bench, size)) for size, name in ALONE.items()},
        EPG: partial(timed, partial(accuracy_and_epg, bench)),
        CAPTUM: partial(timed, partial(captum_loop, bench)),
    }
    seconds = alternate(sides, options.repeats)
    where = f"{options.images} photographs of {options.dataset} at {options.size} px, tf_efficientnet_lite0"
    rows = [row(f"accuracy and EPG against {name}, {where}", seconds, EPG, name, 3) for name in ALONE.values()]
    rows.append(row(f"EPG in batches against captum, {where}", seconds, CAPTUM, EPG, 5))
    write("evaluation", rows, load)


def setup(options: argparse.Namespace) -> SimpleNamespace:
    dataset = ShardDataset.open(options.dataset, options.data)
    pyramid = create_pyramid("tf_efficientnet_lite0")
    load_weights(pyramid, "auto")
    model = Classifier(pyramid, LinearHead(pyramid, len(dataset.manifest.classes))).eval()
    fabric = Fabric(accelerator="cpu")
    reporter = Reporter(quiet=True)
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
        own_root=options.data,
        workers=0,
        cache_bytes=0,
        device=fabric.device,
        reporter=reporter,
    )
    return SimpleNamespace(
        theirs=Plain(copy.deepcopy(model)),
        model=model.to(memory_format=torch.channels_last),  # as a run evaluates
        data=data,
        fabric=fabric,
        reporter=reporter,
        images=options.images,
        order=evaluated_positions(len(dataset.split("test")), options.images),
    )


def timed(evaluate: Callable[[], Any]) -> float:
    started = time.process_time()
    evaluate()
    return time.process_time() - started


@torch.inference_mode()
def accuracy(bench: Any, batch_size: int) -> None:
    """Decodes, predicts, counts."""
    for batch in bench.data.photographs("test", batch_size, region=False).epoch(bench.order, seed=0):
        image = batch.image.contiguous(memory_format=torch.channels_last)
        logits = bench.model.predict(bench.model.features(image)).logits
        (logits.argmax(dim=1) == batch.label).sum()


def accuracy_and_epg(bench: Any) -> None:
    """Decodes, predicts and scores both maps out of the same pass, and the two references; counts."""
    looked = look(bench.fabric, bench.model, Method(MethodConfig()), bench.data, "test", bench.images, bench.reporter)
    (looked.said.prediction == looked.said.label).sum()


def captum_loop(bench: Any) -> None:
    """The same two maps one image and one map at a time."""
    gradcam = LayerGradCam(bench.theirs, bench.theirs.model.pyramid.network.bn2)
    gradient = InputXGradient(bench.theirs)
    for batch in bench.data.photographs("test", 1, region=True).epoch(bench.order, seed=0):
        image, target, region = batch.image, int(batch.label), batch.mask[:, 0]
        with torch.no_grad():
            bench.theirs(image).argmax(dim=1)
        maps = [
            gradcam.attribute(image, target=target, relu_attributions=True)[:, 0],
            gradient.attribute(image.clone().requires_grad_(), target=target).sum(dim=1),
        ]
        for map_ in maps:
            energy_pointing_game(map_.detach(), region)


class Plain(nn.Module):
    """The classifier from images to logits, as captum wants it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model.predict(self.model.features(image)).logits


if __name__ == "__main__":
    main()
