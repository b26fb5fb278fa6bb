"""Torchvision's classifiers as they are, seen as a pyramid of which only the last map is there.

They are evaluated, not trained: a backbone for ``aimbench run`` is a network of timm's.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from aimbench.errors import ConfigError, nearest_names
from aimbench.models.backbones import STAGES, STRIDES, FeaturePyramid
from aimbench.models.classifier import LinearHead, Output

_SIDE = 224


class TorchvisionNetwork(FeaturePyramid):
    """A torchvision classifier without its last linear layer, randomly initialised.

    Attributes:
        name: ``torchvision/`` and torchvision's name.

    Raises:
        ConfigError: torchvision has no classifier of that name, or it does not end in a linear layer.
    """

    def __init__(self, name: str) -> None:
        nn.Module.__init__(self)  # FeaturePyramid's own set-up reads what timm attaches to its networks
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ConfigError(f"unknown torchvision network '{name}': {nearest_names(name, known)}")
        network = torchvision.models.get_model(name, weights=None)
        linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
        # Networks with auxiliary classifiers normalise images anew inside, or not, depending on who trained them.
        if not linear or hasattr(network, "aux_logits"):
            raise ConfigError(
                f"torchvision network '{name}' is no chain that ends in one linear classifier; score its predictions"
                " with --predictions FILE"
            )
        self.name = f"torchvision/{name}"
        self.network = network
        self.weights = torchvision.models.get_model_weights(name).DEFAULT
        transform = self.weights.transforms()
        self.mean, self.std = tuple(transform.mean), tuple(transform.std)
        self.strides = STRIDES
        self.classifiers = (linear[-1],)
        self.embed_dim = network.get_submodule(linear[-1]).in_features
        network.set_submodule(linear[-1], nn.Identity())
        self.is_token_grid = isinstance(network, VisionTransformer)
        self._map_module = self._find_map_module()
        with torch.no_grad():
            last = self.eval()(torch.zeros(1, 3, _SIDE, _SIDE))[STAGES - 1]
        self.channels = (*[0] * (STAGES - 1), last.shape[1] if last.dim() == 4 else 0)

    @property
    def has_attention(self) -> bool:
        """False: torchvision's blocks do not give theirs."""
        return False

    def forward(self, image: Tensor, entries: Collection[int] | None = None) -> list[Tensor]:
        """As ``FeaturePyramid.forward``, with S0..S2 empty and the network's own embedding behind the maps.

        Raises:
            ConfigError: a Vision Transformer is given images of another size than it was made for.
        """
        network: Any = self.network
        if self.is_token_grid and image.shape[-1] != network.image_size:
            raise ConfigError(
                f"'{self.name}' takes images of {network.image_size} px, not {image.shape[-1]}: set --image-size"
            )
        captured: list[Tensor] = []
        module = network.get_submodule(self._map_module)
        hook = module.register_forward_hook(lambda _, __, output: captured.append(output))
        try:
            embedding = network(image)
        finally:
            hook.remove()
        empty = image.new_empty(0)
        maps = [empty] * STAGES
        if self.is_token_grid:
            return [*maps, captured[-1], embedding]
        return [*maps[: STAGES - 1], captured[-1], empty, embedding]

    def token_map(self, tokens: Tensor, image: Tensor) -> Tensor:
        """As ``FeaturePyramid.token_map``."""
        network: Any = self.network
        side = network.image_size // network.patch_size
        return tokens[:, -side * side :].transpose(1, 2).reshape(len(tokens), -1, side, side)

    def attention(self, image: Tensor) -> list[Tensor]:
        """Raises ConfigError: torchvision's networks do not hand out their attention."""
        raise ConfigError(f"'{self.name}' does not hand out its attention; take timm's Vision Transformer")

    def _find_map_module(self) -> str:
        """The last module whose output is a map; of a Vision Transformer, the one before the last block."""
        network: Any = self.network
        if self.is_token_grid:
            return f"encoder.layers.encoder_layer_{len(network.encoder.layers) - 2}"
        finished: list[str] = []

        def note(path: str, output: Any) -> None:
            # A map of one place is pooled already; the network as a whole gives its embedding.
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1 and path:
                finished.append(path)

        hooks = [
            module.register_forward_hook(lambda _, __, output, path=path: note(path, output))
            for path, module in network.named_modules()
        ]
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, _SIDE, _SIDE))
        for hook in hooks:
            hook.remove()
        return finished[-1]


class TorchvisionHead(LinearHead):
    """The network's own classifier; names the map that GradCAM reads, for it is not the last of the features."""

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies the embedding that the network gave."""
        return replace(super().forward(features, mask), last_map=features[self.stages[0]])
