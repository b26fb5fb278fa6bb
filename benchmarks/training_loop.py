"""Training epochs of ``aimbench`` against a bare PyTorch loop with the same model, batches, precision and optimiser.

Seconds are processor time of one thread. Only steps are timed, batches included; evaluation is not.

    python benchmarks/training_loop.py --data data
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measure import alternate, erm_trainer, row, write
from torch.nn import functional as F

from aimbench.data.loader import epoch_order
from aimbench.train.loop import Trainer
from aimbench.train.steps import Steps, Taken

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()
    torch.set_num_threads(1)
    rows = []
    for train, epochs in (("all", 2), ("head", 40)):
        seconds = alternate(
            {
                "bare loop": lambda: bare(options, train, epochs),  # noqa: B023
                "aimbench": lambda: ours(options, train, epochs),  # noqa: B023
            },
            options.repeats,
        )
        what = f"training, {options.backbone} at {options.size} px, {train} trained, against a bare loop"
        rows.append(row(what, seconds, "bare loop", "aimbench", 0.97))
    write("training_loop", rows, load)


def trainer_of(options: argparse.Namespace, runs: str, train: str, epochs: int) -> Trainer:
    """Of an experiment on one core, with its images decoded or its features computed: what later epochs find done."""
    settings = {"train": train, "epochs": epochs, "batch_size": BATCH, "image_size": options.size}
    trainer = erm_trainer(
        options.dataset, options.backbone, options.data, runs, weights="none", training=settings, accelerator="cpu"
    )
    torch.set_num_threads(1)
    trainer.data.training(augment=False)
    return trainer


def ours(options: argparse.Namespace, train: str, epochs: int) -> float:
    original, seconds = Steps.epoch, 0.0

    def timed(*words: Any) -> Taken:
        nonlocal seconds
        started = time.process_time()
        taken = original(*words)
        seconds += time.process_time() - started
        return taken

    with tempfile.TemporaryDirectory() as runs, patch.object(Steps, "epoch", timed):
        trainer_of(options, runs, train, epochs).fit()
    return seconds


def bare(options: argparse.Namespace, train: str, epochs: int) -> float:
    with tempfile.TemporaryDirectory() as runs:
        trainer = trainer_of(options, runs, train, epochs)
        source, model = trainer.data.training(augment=False), trainer.model
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
        started = time.process_time()
        for epoch in range(epochs):
            model.train()
            if train == "head":
                model.pyramid.eval()
            for batch in source.epoch(epoch_order(len(source), epoch), epoch, batch_size=BATCH):
                loaded = batch.to(torch.device("cpu"), channels_last=True)
                optimizer.zero_grad(set_to_none=True)
                loss = F.cross_entropy(model(loaded).logits, loaded.label)
                loss.backward()
                optimizer.step()
        return time.process_time() - started


if __name__ == "__main__":
    main()
