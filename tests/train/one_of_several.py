"""One process of a run that several share: what test_devices.py starts, once for each rank.

    python one_of_several.py CASES FOLDER DATA COUNT [RANK STEP]

CASES is JSON: by name, the changes to a request. Each is run on COUNT processes, one case after the other, and the
first process writes what came out to ``FOLDER/NAME.json``, ``FOLDER/NAME.pt`` and two Parquet files. The process RANK
stops dead before its STEPth step, with exit status 9. LOCAL_RANK and MASTER_PORT come from outside, as from Fabric's
launcher.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from aimbench.errors import AimbenchError
from aimbench.train import checkpoint
from aimbench.train import experiment as experiment_module
from aimbench.train.experiment import Experiment, Request
from aimbench.train.steps import Steps


def request(changes: dict[str, Any], folder: Path, data: Path, count: int) -> Request:
    """A quick run on a mini."""
    training = {"epochs": 2, "batch_size": 32, "image_size": 64, **changes.pop("training", {})}
    values = {"backbone": "test_convnext.r160_in1k", "dataset": "waterbirds@mini", "workers": 0, **changes}
    return Request(
        **values,
        weights="none",
        seed=0,
        data_root=data,
        runs_root=folder / "runs",
        epg_samples=70,  # several batches of EPG, the last one smaller
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


def main(cases: dict[str, Any], folder: Path, data: Path, count: int, dies: list[int]) -> None:
    """Runs every case."""
    # Workers as asked for: otherwise processes on few cores would get none.
    experiment_module.cpu_split = lambda workers, on_gpu, processes: (1, workers)  # type: ignore[assignment]
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if dies and rank == dies[0]:
        stop_before(dies[1])
    for name, changes in cases.items():
        experiment = Experiment(request(changes, folder, data, count))
        result = experiment.run()
        if rank == 0:
            (folder / f"{name}.json").write_text(result.record.model_dump_json())
            for kind, content in result.files.items():
                (folder / f"{name}.{kind}.parquet").write_bytes(content)
            checkpoint.save(folder / f"{name}.pt", checkpoint.load(experiment.folder / "last.pt")["model"])


if __name__ == "__main__":
    words = sys.argv
    try:
        main(json.loads(words[1]), Path(words[2]), Path(words[3]), int(words[4]), [int(word) for word in words[5:]])
    except AimbenchError as error:
        sys.exit(f"error: {error}")
