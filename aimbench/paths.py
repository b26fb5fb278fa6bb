"""Where things live on disk: each root is an option, else an environment variable, else a default."""

import os
from pathlib import Path


def data_root(option: Path | None = None) -> Path:
    """Folder of built shards, one subfolder a dataset variant, and of cached features."""
    return _root(option, "AIMBENCH_DATA", Path("data"))


def raw_root(option: Path | None = None) -> Path | None:
    """Folder that holds the official archives or their unpacked folders; None if nobody named one."""
    value = option or os.environ.get("AIMBENCH_RAW")
    return Path(value).expanduser() if value else None


def cards_root(option: Path | None = None) -> Path | None:
    """Folder of further dataset cards; None if nobody named one."""
    value = option or os.environ.get("AIMBENCH_CARDS")
    return Path(value).expanduser() if value else None


def results_root(option: Path | None = None) -> Path:
    """Folder of the results registry: ``records/``, ``tables/``, ``reference/``."""
    return _root(option, "AIMBENCH_RESULTS", Path("results"))


def runs_root(option: Path | None = None) -> Path:
    """Working folders of runs: checkpoints and per-epoch predictions, needed only to resume or explain."""
    return _root(option, "AIMBENCH_RUNS", Path("runs"))


def _root(option: Path | None, variable: str, default: Path) -> Path:
    return Path(option or os.environ.get(variable) or default).expanduser()
