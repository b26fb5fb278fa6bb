"""Facts about where a run took place, for its record."""

import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import aimbench
from aimbench.record import CodeInfo

PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")


def code_info(method_source: str | None = None) -> CodeInfo:
    """Version, git revision and whether the code differs from it; None outside a checkout.

    Code differs where a tracked file was changed or a module is there that git does not know, such as a new method.
    """
    return _code_info(Path(aimbench.__file__).resolve().parent.parent, method_source)


def _code_info(root: Path, method_source: str | None = None) -> CodeInfo:
    revision = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    folders = (f"{folder}/*.py" for folder in ("aimbench", "methods", "baselines"))
    added = _git(root, "ls-files", "--others", "--exclude-standard", "--", *folders)
    dirty = None if changes is None else bool(changes or added)
    return CodeInfo(version=aimbench.__version__, revision=revision, dirty=dirty, method_source=method_source)


def environment(
    device: torch.device, threads: int, devices: int = 1, nodes: int = 1, *, compiled: bool = False
) -> dict[str, Any]:
    """Python, packages, processor and device; ``devices`` is their number on each of ``nodes`` machines."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "devices": devices,
        "nodes": nodes,
        "threads": threads,
        "compiled": compiled,
        "packages": {name: version(name) for name in PACKAGES},
    }


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of the device (GPU) or of this process (CPU), in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
