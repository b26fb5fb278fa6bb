"""How long the command line takes to answer: ``--help`` and ``list methods``, against Python's own start.

python benchmarks/start.py
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import alternate, row, write

PROGRAM = Path(sys.executable).with_name("aimbench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    load = os.getloadavg()
    seconds = alternate(
        {
            "python": lambda: timed(sys.executable, "-c", "pass"),
            "--help": lambda: timed(PROGRAM, "--help"),
            "list methods": lambda: timed(PROGRAM, "list", "methods"),
        },
        options.repeats,
    )
    rows = [
        row("--help, as many times Python's own start (goal: 0.3 s)", seconds, "--help", "python", None),
        row("list methods, as many times Python's own start (goal: 0.5 s)", seconds, "list methods", "python", None),
    ]
    write("start", rows, load)


def timed(*words: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
