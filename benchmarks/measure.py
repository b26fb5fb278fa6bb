"""What the benchmarks share: a training to time, alternating sides, medians, the machine, results and their table.

python benchmarks/measure.py        # writes README.md's table anew from benchmarks/results/
"""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from aimbench.train.loop import Trainer

FOLDER = Path(__file__).resolve().parent
QUIET_LOAD = 1.0


def alternate(
    sides: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each side, ``repeats`` times in turn, so that a slow minute hits both.

    Args:
        sides: by name, what to run; each returns its seconds.
        repeats: turns that count.
        warm_up: begin with a turn that does not count; long runs need none.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + warm_up):
        for name, measure in sides.items():
            value = measure()
            if turn >= warm_up:
                seconds[name].append(value)
    return seconds


def erm_trainer(
    dataset: str, backbone: str, data: Path, runs: str, *, weights: str, training: dict[str, Any], **request: Any
) -> "Trainer":
    """Of ERM, with its checkpoints under ``runs``; ``request`` holds further fields of ``experiment.Request``."""
    from aimbench.train.experiment import Experiment, Request

    asked = Request(
        method="erm",
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        seed=0,
        data_root=data,
        runs_root=Path(runs),
        training=training,
        **request,
    )
    return Experiment(asked).trainer()


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster ``fast`` is than ``slow``: median over the turns of the ratio within a turn."""
    return statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def row(what: str, seconds: Mapping[str, list[float]], slow: str, fast: str, goal: float | None) -> dict[str, Any]:
    """One line of the table: a ratio with its goal, and every measured second behind it."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"what": what, "ratio": ratio(seconds, slow, fast), "goal": goal, "medians": medians, "seconds": seconds}


def machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def write(name: str, rows: list[dict[str, Any]], load: tuple[float, float, float]) -> None:
    """Writes ``results/<name>.json`` and the table; ``load`` is the load average before the measurement."""
    content = {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": [round(value, 2) for value in load],
        "quiet": load[0] < QUIET_LOAD,
        "rows": rows,
    }
    path = FOLDER / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    (FOLDER / "README.md").write_text(table())
    for line in rows:
        print(f"{line['what']}: {line['ratio']:.2f}" + (f" (goal {line['goal']})" if line["goal"] else ""))


def table() -> str:
    results = [json.loads(path.read_text()) for path in sorted((FOLDER / "results").glob("*.json"))]
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/measure.py` from `results/`. Each script measures its sides in turn, in one",
        "run; a ratio is the median over the turns of the ratio within a turn (of `build`, of the medians). A figure",
        "marked *busy* was measured while other programs used the cores: sides suffer alike, but take it as rough.",
        "Nothing was measured on a GPU.",
        "`loader`, `evaluation`, `training_loop` and `start` take processor time of one thread: it is disturbed less.",
        "AIM against ERM, step and inference: `aim_vs_erm.md`; what AIM adds to each backbone: `backbones.md`. Another",
        "script without a line here has no committed figures.",
        "",
        "| script | what | ratio | goal | medians | |",
        "|---|---|---|---|---|---|",
    ]
    machines = list({json.dumps(result["machine"], sort_keys=True): result["machine"] for result in results}.values())
    for result in results:
        where = f"machine {machines.index(result['machine']) + 1}"
        above = None  # rows of one measurement share their medians
        for line in result["rows"]:
            unit = line.get("unit", "s")
            medians = ", ".join(f"{side} {value:.3g} {unit}" for side, value in line["medians"].items())
            above, medians = medians, "as above" if medians == above else medians
            goal = "" if line["goal"] is None else f"{line['goal']:g}"
            note = where if result["quiet"] else f"{where}, busy (load {result['load_before'][0]:g})"
            lines.append(f"| {result['name']} | {line['what']} | {line['ratio']:.2f} | {goal} | {medians} | {note} |")
    for number, m in enumerate(machines, 1):
        lines += ["", f"Machine {number}: {m['cores']} cores of {m['cpu']}, {m['memory_gb']} GB, torch {m['torch']}."]
    return "\n".join(lines) + "\n\n" + (FOLDER / "notes.md").read_text()


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(table())
