"""Checkpoints that survive a kill and cannot run code when they are read."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from aimbench.errors import ConfigError
from aimbench.whole_files import whole_file

# What torch's unpickler raises for bytes that were changed.
_DAMAGED = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors and plain data) so that ``path`` holds the old or the new, never a part."""
    with whole_file(path) as file:
        torch.save(state, file)


def load(path: Path, run: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint with torch's weights-only unpickler, when its bytes are those that were saved.

    Args:
        path: of the file.
        run: id of the run that it must be of, since another's network may well fit; earlier checkpoints name none.

    Raises:
        ConfigError: the file is missing, damaged, no checkpoint, of another run, or holds more than tensors and
            plain data.
    """
    try:
        _check_sums(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"checkpoint {path} does not exist; run the experiment first") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"checkpoint {path} is none, or holds more than tensors; it was not loaded, because unpickling it could run"
            " code"
        ) from error
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error) as error:
        problem = str(error) or "it ends too early"  # torch has no words for an empty file
        raise ConfigError(
            f"checkpoint {path} cannot be read ({problem}); delete the run's folder and start over"
        ) from error
    if not isinstance(state, dict):
        raise ConfigError(
            f"checkpoint {path} holds no run's state but a {type(state).__name__}; put the run's own back"
        )
    if run is not None and state.get("run", run) != run:
        raise ConfigError(f"checkpoint {path} is that of run {state['run']}, not of {run}; put the run's own back")
    return state


def _check_sums(path: Path) -> None:
    """Compares the checksums that torch writes into its zip and does not look at again."""
    if not zipfile.is_zipfile(path):
        return  # missing, truncated, or of another format: torch says which
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have the checksum it was saved with")


def random_state() -> dict[str, Any]:
    """States of torch's random generators on the CPU and on this process's GPU."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what ``random_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0])
