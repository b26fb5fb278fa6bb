"""How long the command line takes to answer: ``--help`` and ``list``.

python benchmarks/start.py
"""

import argparse
import os
import resource
import subprocess
import sys
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
            "--help": lambda: timed(PROGRAM, "--help"),
            "list methods": lambda: timed(PROGRAM, "list", "methods"),
            "list datasets": lambda: timed(PROGRAM, "list", "datasets"),
        },
        options.repeats,
    )
    rows = []
    for name, goal in (("--help", 0.3), ("list methods", 0.5), ("list datasets", 0.5)):
        sides = {f"goal for {name}": [goal] * options.repeats, name: seconds[name]}
        rows.append(row(f"aimbench {name}: its goal of {goal} s over its time", sides, f"goal for {name}", name, 1))
    write("start", rows, load)


def timed(*words: str | Path) -> float:
    """Processor seconds of a program, which other programs hardly disturb; it waits for nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
