"""Builds a generated ImageNet tree and prints seconds, images/s and peak memory, whole and resumed after a kill.

The tree has the class folders of ImageNet-100 and photographs of ImageNet's usual size (about 500x375, 110 kB).

    python benchmarks/build.py --images 20000 --workers 2
"""

import argparse
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(Path(folder), options.images, options.workers)


def run(folder: Path, images: int, workers: int) -> None:
    raw = folder / "raw"
    size = write_tree(raw, images)
    print(f"tree: {images} images, {size / 1e9:.2f} GB")
    for share in (0.25, 1.0):
        part = folder / f"raw-{share}"
        thin_out(raw, part, share)
        seconds, peak = measured(part, folder / f"data-{share}", workers)
        count = round(images * share)
        print(
            f"whole build of {count:6d} images, {workers} workers: {seconds:6.1f} s, {count / seconds:5.0f} images/s, "
            f"peak memory of the largest process {peak:.0f} MB"
        )
    killed_after, left, seconds = killed_and_resumed(folder / "raw-1.0", folder / "data-killed", workers)
    print(f"killed after {killed_after:.1f} s with {left} finished shards; resumed in {seconds:.1f} s")
    same = fingerprint(folder / "data-killed") == fingerprint(folder / "data-1.0")
    print(f"resumed build has the same fingerprint: {same}")


def write_tree(raw: Path, images: int) -> int:
    """Writes distinct JPEGs once and links the rest to them: what is measured is reading and building."""
    from aimbench.cards import load_card

    wnids = load_card("imagenet100").variants["cmc"].options["class_folders"]
    pool = raw / "pool"
    pool.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((500, 375))
        noise = rng.normal(0, 14, (375, 500, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(
            pool / f"{i}.JPEG", quality=88
        )
    size = 0
    for i in range(images):
        wnid = wnids[i % len(wnids)]
        split = "val" if i % 20 == 19 else "train"
        path = raw / "imagenet" / split / wnid / f"{wnid}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool / f"{i % DISTINCT}.JPEG", path)
        size += path.stat().st_size
    return size


def thin_out(raw: Path, target: Path, share: float) -> None:
    for path in sorted((raw / "imagenet").rglob("*.JPEG")):
        number = int(path.stem.rpartition("_")[2])
        if number % 100 < 100 * share or share == 1:
            linked = target / path.relative_to(raw)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, linked)


def build_once(raw: Path, data: Path, workers: int, results: "multiprocessing.Queue[tuple[float, float]]") -> None:
    from aimbench.data.build import build

    started = time.monotonic()
    build("imagenet100", raw, data, partial=True, workers=workers)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    results.put((time.monotonic() - started, peak))


def measured(raw: Path, data: Path, workers: int) -> tuple[float, float]:
    """Builds in a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=build_once, args=(raw, data, workers, results))
    process.start()
    seconds, peak = results.get()
    process.join()
    return seconds, peak


def killed_and_resumed(raw: Path, data: Path, workers: int) -> tuple[float, int, float]:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=build_once, args=(raw, data, workers, results))
    process.start()
    started = time.monotonic()
    finished: list[Path] = []
    while len(finished) < 4 and process.is_alive():
        time.sleep(0.2)
        finished = list(data.glob("imagenet100/.building-*/parts/*.parquet"))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    after = time.monotonic() - started
    seconds, _ = measured(raw, data, workers)
    return after, len(finished), seconds


def fingerprint(data: Path) -> str:
    from aimbench.data.manifest import read_manifest

    return read_manifest(data / "imagenet100" / "cmc").fingerprint


if __name__ == "__main__":
    main()
