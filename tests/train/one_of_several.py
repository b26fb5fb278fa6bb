"""One process of a run that several share: what test_devices.py starts, once for each rank.

    python one_of_several.py CASES FOLDER DATA COUNT DIES

CASES is JSON: by name, the changes to a request. Each is run on COUNT processes, one case after the other, and the
first process writes what came out to ``FOLDER/NAME.json`` and ``FOLDER/NAME.pt``. With DIES above 0, the last
process stops dead before its DIESth step, with exit status 9. LOCAL_RANK and MASTER_PORT come from outside, as from
Fabric's launcher.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from aimbench.errors import AimbenchError
from aimbench.train import checkpoint
from aimbench.train.experiment import Experiment, Request
from aimbench.train.steps import Steps


def request(changes: dict[str, Any], folder: Path, data: Path, count: int) -> Request:
    """A quick run on a mini."""
    training = {"epochs": 2, "batch_size": 32, "image_size": 64, **changes.pop("training", {})}
    values = {"backbone": "test_convnext.r160_in1k", "dataset": "waterbirds@mini", **changes}
    return Request(
        **values,
        weights="none",
        seed=0,
        data_root=data,
        runs_root=folder / "runs",
        epg_samples=70,  # several batches of EPG, the last one smaller
        workers=0,
        accelerator="cpu",
        devices=count,
        training=training,
    )


def stop_before(step: int) -> None:
    """Stops this process dead before its ``step``th step."""
    original, calls = Steps.step, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            os._exit(9)
        return original(*args, **kwargs)

    Steps.step = counted  # type: ignore[method-assign]


def main(cases: dict[str, Any], folder: Path, data: Path, count: int, dies: int) -> None:
    """Runs every case."""
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if dies and rank == count - 1:
        stop_before(dies)
    for name, changes in cases.items():
        experiment = Experiment(request(changes, folder, data, count))
        result = experiment.run()
        if rank == 0:
            (folder / f"{name}.json").write_text(result.record.model_dump_json())
            (folder / f"{name}.parquet").write_bytes(result.files["predictions"])
            checkpoint.save(folder / f"{name}.pt", checkpoint.load(experiment.folder / "last.pt")["model"])


if __name__ == "__main__":
    words = sys.argv
    try:
        main(json.loads(words[1]), Path(words[2]), Path(words[3]), int(words[4]), int(words[5]))
    except AimbenchError as error:
        sys.exit(f"error: {error}")
