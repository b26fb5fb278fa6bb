"""What the defaults are chosen by: the same steps and the same epoch with one thing changed at a time.

A step is ERM's on the whole network; an epoch reads photographs, decodes them and trains on them. Each side is wall
time, all take turns.

    python benchmarks/defaults.py --dataset cub --data data
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import alternate, erm_trainer, row, write

from aimbench.data.batch import Batch
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.api import Progress
from aimbench.train.config import TrainConfig
from aimbench.train.optim import make_optimizer, set_train_mode, set_trainable
from aimbench.train.registry import get_method

CLASSES, BATCH = 50, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    load, cores = os.getloadavg(), len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    rows = steps(options) + threads(options, cores) + epochs(options, cores)
    write("defaults", rows, load)


def steps(options: argparse.Namespace) -> list[dict]:
    sides = {
        "default": stepper(options),
        "colours first": stepper(options, channels_last=False),
        "bf16": stepper(options, bf16=True),
        "fused optimiser": stepper(options, fused=True),
        "compiled": stepper(options, compiled=True),
    }
    seconds = alternate(sides, options.repeats)
    where = f"a step of {options.backbone}, batch {BATCH} at {options.size} px"
    return [row(f"{where}: the default against {name}", seconds, name, "default", None) for name in list(sides)[1:]]


def threads(options: argparse.Namespace, cores: int) -> list[dict]:
    step = stepper(options)

    def with_threads(count: int) -> float:
        torch.set_num_threads(count)
        try:
            return step()
        finally:
            torch.set_num_threads(cores)

    sides = {f"{n} threads": lambda n=n: with_threads(n) for n in (1, cores, 2 * cores, 4 * cores)}
    seconds = alternate(sides, options.repeats)
    return [
        row(f"a step on {cores} cores: {cores} threads against {name}", seconds, name, f"{cores} threads", None)
        for name in sides
        if name != f"{cores} threads"
    ]


def epochs(options: argparse.Namespace, cores: int) -> list[dict]:
    """Trainer threads and loader workers, decoding every epoch; the default is the first."""
    splits = [(cores, 0), (max(1, cores - 1), 1), (cores, 1), (cores, cores)]
    sides = {f"{t} threads, {w} workers": epoch(options, t, w) for t, w in splits}
    seconds = alternate(sides, max(1, options.repeats // 2))
    first = next(iter(sides))
    return [
        row(f"an epoch on {cores} cores: {first} against {name}", seconds, name, first, None)
        for name in list(sides)[1:]
    ]


def stepper(
    options: argparse.Namespace,
    *,
    channels_last: bool = True,
    bf16: bool = False,
    fused: bool = False,
    compiled: bool = False,
) -> Callable[[], float]:
    torch.manual_seed(0)
    device = torch.device(options.device)
    cls = get_method("erm")
    method = cls(cls.configure({}, None))
    pyramid = create_pyramid(options.backbone)
    model = Classifier(pyramid, method.build(pyramid, CLASSES, frozen=False)).to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_trainable(model, "all")
    optimizer = make_optimizer(model, TrainConfig(train="all"), method.learning_rates())
    for group in optimizer.param_groups:
        group["fused"] = fused or group["fused"]
    if compiled:
        model.pyramid.compile()
    image = torch.randn(BATCH, 3, options.size, options.size)
    batch = Batch(torch.arange(BATCH), torch.randint(CLASSES, (BATCH,)), image=image)
    batch = batch.to(device, channels_last=channels_last)

    def step() -> float:
        started = time.perf_counter()
        set_train_mode(model)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = method.loss(model, batch, Progress(0, 1, 0, 1))
        loss = result if isinstance(result, torch.Tensor) else result["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def epoch(options: argparse.Namespace, threads: int, workers: int) -> Callable[[], float]:
    def run() -> float:
        before = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as runs:
            training = {"train": "all", "epochs": 1, "batch_size": BATCH, "image_size": options.size}
            trainer = erm_trainer(
                options.dataset,
                options.backbone,
                options.data,
                runs,
                weights="none",
                training=training,
                workers=0,
                cache_gb=0,
                accelerator=options.device,
            )
            trainer.data._workers = workers  # what the command line would lower to the cores there are
            torch.set_num_threads(threads)
            try:
                trainer.fit()
            finally:
                torch.set_num_threads(before)
            return trainer.clock.seconds

    return run


if __name__ == "__main__":
    main()
