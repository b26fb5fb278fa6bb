"""A training step and a prediction of AIM[2] against ERM on the same backbone.

python benchmarks/aim_cost.py
"""

import argparse
import os
import time
from collections.abc import Callable

import torch
from measure import alternate, row, write

from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.api import Batch, Progress
from aimbench.train.registry import get_method

BACKBONES = ("convnext_tiny", "resnet50", "deit_small_patch16_224")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()
    rows = []
    for backbone in BACKBONES:
        sides = {name: make(name, backbone, options.batch) for name in ("erm", "aim")}
        for i, (what, goal) in enumerate((("training step", 1.15), ("prediction", 1.10))):
            seconds = alternate({name: pair[i] for name, pair in sides.items()}, options.repeats)
            rows.append(row(f"AIM[2] takes as many times ERM's {what}, {backbone}", seconds, "aim", "erm", goal))
    write("aim_cost", rows, load)


def make(name: str, backbone: str, size: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """A training step and a prediction, each returning its seconds."""
    torch.manual_seed(0)
    method_class = get_method(name)
    method = method_class(method_class.configure({"stop_stage": 2} if name == "aim" else {}))
    pyramid = create_pyramid(backbone)
    model = Classifier(pyramid, method.build(pyramid, 200, frozen=False)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    image = torch.randn(size, 3, 224, 224).to(memory_format=torch.channels_last)
    batch = Batch(torch.arange(size), torch.arange(size), image=image)

    def step() -> float:
        model.train()
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        result = method.loss(model, batch, Progress(1, 2, 1, 2))
        (result if isinstance(result, torch.Tensor) else result["loss"]).backward()
        optimizer.step()
        return time.process_time() - started

    def predict() -> float:
        model.eval()
        started = time.process_time()
        with torch.inference_mode():
            model(batch)
        return time.process_time() - started

    return step, predict


if __name__ == "__main__":
    main()
