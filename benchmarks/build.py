"""Builds generated ImageNet trees of several sizes in turn: peak memory, images/s, and a resume after a kill.

Memory must not grow with the number of images, so the sizes are compared. The trees have the class folders of
ImageNet-100; their files are hard links to 200 distinct photographs, so what is measured is reading and building.

    python benchmarks/build.py                                   # 5,000 to 60,000 small photographs, memory
    python benchmarks/build.py --name build_photographs --sizes 5000 20000 --side 500   # of ImageNet's usual size
"""

import argparse
import multiprocessing
import os
import queue
import resource
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DISTINCT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="build", help="of the results file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 60_000], help="images in a tree")
    parser.add_argument("--side", type=int, default=64, help="width of a photograph in pixels")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = run(Path(folder), sorted(options.sizes), options.side, options.turns, options.workers)
    # Imports torch, and a process counts as its own peak what its parent held when it was started.
    from measure import write

    write(options.name, rows, load)


def run(folder: Path, sizes: list[int], side: int, turns: int, workers: int) -> list[dict[str, Any]]:
    write_photographs(folder / "pool", side)
    for size in sizes:
        link_tree(folder, size)
    memory: dict[str, list[float]] = {f"{size:,} images": [] for size in sizes}
    speed: dict[str, list[float]] = {name: [] for name in memory}
    for turn in range(turns):
        for size, name in zip(sizes, memory, strict=True):
            data = folder / f"data-{size}-{turn}"
            seconds, peak = measured(folder / f"raw-{size}", data, workers)
            memory[name].append(peak)
            speed[name].append(size / seconds)
            print(f"{name}: {seconds:.1f} s, {size / seconds:.0f} images/s, peak {peak:.1f} MB", flush=True)
    names = list(memory)
    few, many = names[0], names[-1]
    grown = statistics.median(memory[many]) - statistics.median(memory[few])
    print(f"bytes an image between {few} and {many}: {1e6 * grown / (sizes[-1] - sizes[0]):.0f}")
    what = f"{side} px, {workers} workers"
    return [
        row(f"build, peak memory of the largest process, {many} against {few}, {what}", memory, many, few, "MB"),
        row(f"build, images a second, {many} against {few}, {what}", speed, many, few, "images/s"),
        resumed(folder, sizes[-1], workers, what),
    ]


def row(what: str, values: dict[str, list[float]], over: str, under: str, unit: str) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in values.items()}
    ratio = medians[over] / medians[under]
    return {"what": what, "ratio": ratio, "goal": None, "medians": medians, "seconds": values, "unit": unit}


def write_photographs(pool: Path, width: int) -> None:
    pool.mkdir(parents=True)
    height = width * 3 // 4
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((width, height))
        noise = rng.normal(0, 14, (height, width, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(
            pool / f"{i}.JPEG", quality=88
        )


def link_tree(folder: Path, images: int) -> None:
    from aimbench.cards import load_card

    wnids = load_card("imagenet100").variants["cmc"].options["class_folders"]
    for i in range(images):
        wnid = wnids[i % len(wnids)]
        split = "val" if i // len(wnids) % 20 == 19 else "train"
        path = folder / f"raw-{images}" / "imagenet" / split / wnid / f"{wnid}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / "pool" / f"{i % DISTINCT}.JPEG", path)


def build_once(raw: Path, data: Path, workers: int, results: "multiprocessing.Queue[tuple[float, float]]") -> None:
    from aimbench.data.build import build

    started = time.monotonic()
    build("imagenet100", raw, data, partial=True, workers=workers)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    results.put((time.monotonic() - started, peak))


def start(raw: Path, data: Path, workers: int) -> tuple[Any, "multiprocessing.Queue[tuple[float, float]]"]:
    """Starts a build in a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=build_once, args=(raw, data, workers, results))
    process.start()
    return process, results


def measured(raw: Path, data: Path, workers: int) -> tuple[float, float]:
    process, results = start(raw, data, workers)
    while True:
        try:
            found = results.get(timeout=1)
            break
        except queue.Empty:
            if not process.is_alive():
                raise SystemExit(f"the build of {raw} failed") from None
    process.join()
    return found


def resumed(folder: Path, images: int, workers: int, what: str) -> dict[str, Any]:
    """Kills a build once half of its shards are finished, builds again, and compares the fingerprints."""
    raw, data = folder / f"raw-{images}", folder / "data-killed"
    whole = folder / f"data-{images}-0"
    half = len(list(whole.glob("imagenet100/cmc/*.tar"))) // 2
    process, _ = start(raw, data, workers)
    began = time.monotonic()
    while len(list(data.glob("imagenet100/.building-*/parts/*.parquet"))) < half and process.is_alive():
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed = time.monotonic() - began
    seconds, _ = measured(raw, data, workers)
    if fingerprint(data) != fingerprint(whole):
        raise SystemExit("the resumed build differs from the one that was not killed")
    values = {"until the kill": [killed], "resumed": [seconds]}
    name = f"build of {images:,} images killed after half of its shards, rest against first half, {what}"
    return row(name, values, "resumed", "until the kill", "s")


def fingerprint(data: Path) -> str:
    from aimbench.data.manifest import read_manifest

    return read_manifest(data / "imagenet100" / "cmc").fingerprint


if __name__ == "__main__":
    main()
