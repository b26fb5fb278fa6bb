"""An epoch of ``aimbench`` against a bare PyTorch loop with the same model, batches, precision and optimiser.

python benchmarks/training_loop.py --data data
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from measure import alternate, row, write
from torch.nn import functional as F

from aimbench.data.loader import epoch_order
from aimbench.train.experiment import Experiment, Request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    load = os.getloadavg()
    rows = []
    for train in ("all", "head"):
        with tempfile.TemporaryDirectory() as folder:
            seconds = alternate(
                {
                    "bare loop": lambda: bare(options, Path(folder), train),  # noqa: B023
                    "aimbench": lambda: ours(options, Path(folder), train),  # noqa: B023
                },
                options.repeats,
            )
        what = f"training, {options.backbone} at {options.size} px, {train} trained, against a bare loop"
        rows.append(row(what, seconds, "bare loop", "aimbench", 0.97))
    write("training_loop", rows, load)


def experiment(options: argparse.Namespace, folder: Path, train: str) -> Experiment:
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        return Experiment(
            Request(
                method="erm",
                dataset=options.dataset,
                backbone=options.backbone,
                weights="none",
                seed=0,
                data_root=options.data,
                runs_root=Path(runs),
                training={"train": train, "epochs": 1, "batch_size": 32, "image_size": options.size},
            )
        )


def ours(options: argparse.Namespace, folder: Path, train: str) -> float:
    """Seconds of the training steps of one epoch, batches included, evaluation not."""
    trainer = experiment(options, folder, train).trainer()
    len(trainer.data.training(augment=False))  # decodes, or computes the features: what later epochs find done
    trainer.fit()
    return trainer.clock.seconds


def bare(options: argparse.Namespace, folder: Path, train: str) -> float:
    trainer = experiment(options, folder, train).trainer()
    source = trainer.data.training(augment=False)
    model = trainer.model
    model.train()
    if train == "head":
        model.pyramid.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    started = time.perf_counter()
    for batch in source.epoch(epoch_order(len(source), 0), 0):
        loaded = batch.to(torch.device("cpu"), channels_last=True)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(loaded).logits, loaded.label)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
