"""Times AIM[2, 25%] against ERM side by side: a training step of the whole network, and inference.

The two take turns, so that what else the machine does hits both; the ratio is the median over turns of the two times of
one turn. Time is wall time; with one thread the processor's own time is shown too, which other processes disturb less.

    python benchmarks/aim_vs_erm.py --backbone convnext_tiny --turns 9 --append benchmarks/aim_vs_erm.jsonl

``--append`` also writes the table of all results in that file, ``aim_vs_erm.md`` beside it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aimbench.data.batch import Batch
from aimbench.models.backbones import create_pyramid
from aimbench.models.classifier import Classifier
from aimbench.train.api import Progress
from aimbench.train.config import TrainConfig
from aimbench.train.environment import environment
from aimbench.train.optim import make_optimizer, set_train_mode, set_trainable
from aimbench.train.registry import get_method

PRESETS = {"erm": None, "aim": "2-25"}
GOALS = {"training step": 1.15, "inference": 1.10}
CLASSES = 200
WARM_UP = 2


class Side:
    """One method's model, with its optimiser."""

    def __init__(self, method: str, backbone: str, device: torch.device) -> None:
        torch.manual_seed(0)
        cls = get_method(method)
        self.method = cls(cls.configure({}, PRESETS[method]))
        pyramid = create_pyramid(backbone)
        head = self.method.build(pyramid, CLASSES, frozen=False)
        self.model = Classifier(pyramid, head).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_trainable(self.model, "all")
        self.optimiser = make_optimizer(self.model, TrainConfig(train="all"), self.method.learning_rates())

    def train_step(self, batch: Batch) -> None:
        set_train_mode(self.model)
        result = self.method.loss(self.model, batch, Progress(0, 1, 0, 1))
        loss = result if isinstance(result, torch.Tensor) else result["loss"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    @torch.no_grad()
    def infer(self, batch: Batch) -> None:
        self.model.eval()
        self.model(batch)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # kernels run on behind the call
    return time.perf_counter() - wall, time.process_time() - processor


def compare(works: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Medians of wall seconds, and of the ratios aim / erm within a turn."""
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    rounds = []
    for turn in range(turns):
        order = list(works) if turn % 2 == 0 else list(reversed(works))
        rounds.append({name: timed(works[name]) for name in order})
    return {
        **{f"{name} s": statistics.median(r[name][0] for r in rounds) for name in works},
        "ratio": statistics.median(r["aim"][0] / r["erm"][0] for r in rounds),
        "ratio of processor time": statistics.median(r["aim"][1] / r["erm"][1] for r in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="convnext_tiny")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--append", type=Path, help="a .jsonl file to add the result to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(options.batch_size, 3, 224, 224, generator=generator)
    device = torch.device(options.device)
    batch = Batch(
        torch.arange(options.batch_size),
        torch.randint(CLASSES, (options.batch_size,), generator=generator),
        image=image,
    ).to(device, channels_last=True)
    sides = {name: Side(name, options.backbone, device) for name in PRESETS}
    result = {
        "backbone": options.backbone,
        "device": options.device,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "turns": options.turns,
        "inference": compare({n: lambda s=s: s.infer(batch) for n, s in sides.items()}, options.turns),
        "training step": compare({n: lambda s=s: s.train_step(batch) for n, s in sides.items()}, options.turns),
        "environment": environment(device, options.threads),
    }
    print(json.dumps(result, indent=1))
    if options.append:
        with options.append.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        write_table(options.append)


def write_table(results: Path) -> None:
    """Writes the results of a .jsonl file as a table beside it; goals are those of the method's specification."""
    lines = [
        "# A step and inference of AIM[2, 25%] beside ERM's",
        "",
        "Written by `benchmarks/aim_vs_erm.py`, whose head says how it measures. 224 px, whole network trained.",
        f"Goals for ConvNeXt-T: step {GOALS['training step']:.2f}, inference {GOALS['inference']:.2f}.",
        "",
        "| backbone | device | batch | threads | turns | what | ERM s | AIM s | ratio, wall | ratio, processor |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for text in results.read_text(encoding="utf-8").splitlines():
        run = json.loads(text)
        lines += [
            f"| {run['backbone']} | {run.get('device', 'cpu')} | {run['batch_size']}"
            f" | {run['threads']} | {run['turns']} | {what}"
            f" | {run[what]['erm s']:.2f} | {run[what]['aim s']:.2f} | {run[what]['ratio']:.3f}"
            f" | {run[what]['ratio of processor time']:.3f} |"
            for what in GOALS
        ]
    results.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
