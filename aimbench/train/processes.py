"""Starts the processes of a run (Lightning Fabric) and says what happened when one of them dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from aimbench.data.sharing import share
from aimbench.errors import AimbenchError, ConfigError
from aimbench.models.classifier import Classifier
from aimbench.train.method import Method

ACCELERATORS = ("auto", "cpu", "cuda")
"""What a user may ask for as device."""

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which computes the features of a frozen backbone for all. One that has
died is noticed at once, by its closed connection or by what started it."""


class BFloat16Mixed(MixedPrecision):
    """Lightning Fabric's ``bf16-mixed``, for losses that hold gradients of the model's output too.

    Fabric's own refuses every backward pass but ``fabric.backward``, where a gradient scaler would be at work.
    bfloat16 has none, so the plain backward pass is all that there is to it.
    """

    backward = Precision.backward


def is_first_by_environment() -> bool:
    """Whether this process will be the first, before the processes have met."""
    for name in ("RANK", "SLURM_PROCID"):  # torchrun's and SLURM's, over all machines
        if name in os.environ:
            return os.environ[name] == "0"
    # Fabric's own start numbers the machines and, on each, the processes.
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def others_end_with_the_first(nodes: int) -> bool:
    """Whether no process is left waiting if the first ends at once: it starts them itself, or torchrun ends them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return nodes == 1 and "SLURM_PROCID" not in os.environ and "LOCAL_RANK" not in os.environ


def check_processes(method: Method, loader: str, devices: int, nodes: int) -> None:
    """Says before anything is built that a run cannot be spread over processes.

    Raises:
        ConfigError: naming the reason and the mend.
    """
    if devices < 1 or nodes < 1:
        raise ConfigError(f"--devices {devices} --nodes {nodes}: both count from 1")
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else None
    if started is not None and started != devices * nodes:
        raise ConfigError(
            f"torchrun started {started} processes, but --devices {devices} --nodes {nodes} asks for {devices * nodes};"
            " give both the same"
        )
    if devices * nodes == 1:
        return
    if not vars(type(method)).get("splits_batches", False):
        raise ConfigError(
            f"method '{method.name}' is not made for a batch that several processes share; run it with --devices 1 (its"
            " class says 'splits_batches = True' once its loss and phases are right for a part of a batch)"
        )
    if loader == "stream":
        raise ConfigError("--loader stream reads in one process only; use --loader indexed with several devices")


def check_layers(model: Classifier, backbone: str, *, trained: bool) -> None:
    """Refuses several processes where a layer draws at random for its samples: each would draw what the others draw.

    Args:
        model: what is trained.
        backbone: its backbone's name.
        trained: whether the backbone is trained too, so that its layers draw.

    Raises:
        ConfigError: naming the layer.
    """
    for name, module in model.named_modules():
        share_dropped = module.p if isinstance(module, nn.Dropout) else getattr(module, "drop_prob", 0.0)
        if share_dropped and (trained or not name.startswith("pyramid.")):
            raise ConfigError(
                f"layer '{name}' draws at random for each sample (stochastic depth or dropout; the backbone is"
                f" '{backbone}'), which several processes do not share; run it with --devices 1, or take another"
            )


def check_accelerator(accelerator: str) -> None:
    """Checks what a user asks for as device, before anything is loaded.

    Raises:
        ConfigError: there is no such device, by name or on this machine.
    """
    if accelerator not in ACCELERATORS:
        raise ConfigError(f"--device {accelerator}: give {', '.join(ACCELERATORS[:-1])} or {ACCELERATORS[-1]}")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here; give --device cpu or auto")


def check_precision(precision: str, accelerator: str) -> None:
    """Refuses half precision on a CPU, where Fabric would take bfloat16 in its place and the record name the other.

    Raises:
        ConfigError: there is no GPU to train on.
    """
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.accelerator.is_available()):
        raise ConfigError("--precision 16-mixed needs a GPU; give bf16-mixed or 32-true")


def start(accelerator: str, precision: Any, devices: int, nodes: int, loggers: Any = None) -> Fabric:
    """Devices and precision of a run, its processes started or joined.

    Raises:
        ConfigError: the devices are not there, or do not fit what torchrun or SLURM started.
    """
    found = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    options: dict[str, Any] = {"accelerator": accelerator, "loggers": loggers}
    if precision == "bf16-mixed":
        options["plugins"] = BFloat16Mixed(precision, "cpu" if found is None else found.type)
    else:
        options["precision"] = precision
    if devices * nodes == 1:
        return Fabric(devices=1, **options)
    # A method may leave parts of a backbone unused. Buffers need no exchange: every process computes the same ones.
    strategy = DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False, timeout=PATIENCE)
    try:
        fabric = Fabric(strategy=strategy, devices=devices, num_nodes=nodes, **options)
        fabric.launch()
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"--devices {devices} --nodes {nodes}: {' '.join(str(error).split())}") from error
    return fabric


@contextmanager
def explains_a_death(folder: Path) -> Iterator[None]:
    """Turns the failure to reach another process into a line that says what is left and how to go on."""
    try:
        yield
    except AimbenchError:
        raise
    except RuntimeError as error:
        here = share()
        if here.count == 1 or not _is_lost_connection(error):
            raise
        raise ConfigError(
            f"another of the {here.count} processes of this run has ended early (this is rank {here.rank}); its own"
            f" message says why. The last finished epoch is kept in {folder}; the same command goes on from it"
        ) from error


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "by peer" in str(error)
