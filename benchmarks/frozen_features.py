"""A run on features of a frozen backbone, computed once, against the same run that passes the images every epoch.

python benchmarks/frozen_features.py --data data
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from measure import alternate, erm_trainer, row, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="waterbirds@mini")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AIMBENCH_DATA", "data")))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as own:
        for dataset in options.data.iterdir():
            if dataset.name != "features":  # a cache of its own, which may be emptied
                (Path(own) / dataset.name).symlink_to(dataset.resolve())
        options.data = Path(own)
        seconds = alternate(
            {
                "images": lambda: run(options, loader="stream", forget=False),
                "features, first run": lambda: run(options, loader="indexed", forget=True),
                "features, later runs": lambda: run(options, loader="indexed", forget=False),
            },
            options.repeats,
            warm_up=False,
        )
    sides = f"{options.epochs} epochs on frozen features against images decoded in every epoch"
    where = f"{sides}, {options.backbone} at {options.size} px"
    rows = [
        row(f"{where}, features computed in the run", seconds, "images", "features, first run", 10),
        row(f"{where}, features of an earlier run", seconds, "images", "features, later runs", 10),
    ]
    write("frozen_features", rows, load)


def run(options: argparse.Namespace, *, loader: str, forget: bool) -> float:
    """Seconds of a whole training with its evaluations, from opening the data on."""
    if forget:
        shutil.rmtree(options.data / "features", ignore_errors=True)
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        training = {"train": "head", "epochs": options.epochs, "image_size": options.size, "loader": loader}
        erm_trainer(options.dataset, options.backbone, options.data, runs, weights="auto", training=training).fit()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
