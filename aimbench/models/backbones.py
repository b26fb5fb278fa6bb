"""Any timm network as a feature pyramid: four maps S0..S3 from fine to coarse.

Hierarchical networks (ResNet, ConvNeXt, EfficientNet, Swin) give their own
stages at strides 4, 8, 16, 32. A plain Vision Transformer has one stride: four
depths of it are resampled to the same strides (a simple feature pyramid, Li
et al. 2022, without its learned deconvolutions).

S3 is the map that the network's own classifier pools: for EfficientNet this
includes the last 1x1 convolution, so that a linear head on the pooled S3 is
the ordinary network and not a weakened one.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.errors import ConfigError, nearest_names
from aimbench.models.stagewise import stage_modules

STAGES = 4
STRIDES = (4, 8, 16, 32)
EMBEDDING = STAGES + 1
"""Entry of a cached pyramid that holds the network's own embedding, after the maps and a ViT's tokens."""


NORMALISED = 1e-5
"""Spread of the root mean square over channels, relative to its mean, below which a map is normalised: layer norms
leave 1e-6, other untrained networks 1e-4 and more."""


class FeaturePyramid(nn.Module):
    """A timm network without its classifier.

    Attributes:
        name: timm's name of the network.
        channels: channels of S0..S3.
        strides: strides of S0..S3.
        embed_dim: size of the network's own pooled embedding.
        mean, std: normalisation that the network expects, per colour channel, of images in [0, 1].
        has_energy: whether the size of S3's vectors differs between positions. A Swin's are layer-normed, and a plain
            Vision Transformer's are means of such, so that their size tells nothing of what they respond to.
        classifiers: names of the network's own classifier layers, which it was built without.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.network = network
        config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        heads = config.get("classifier") or ()
        self.classifiers = (heads,) if isinstance(heads, str) else tuple(heads)
        self.strides = STRIDES
        self.is_token_grid = not _is_hierarchical(network)
        self._indices = _stage_indices(network)
        with torch.no_grad():
            was_training = network.training
            noise = torch.randn(1, 3, *config["input_size"][-2:], generator=torch.Generator().manual_seed(0))
            maps = self.eval()(noise)
            # Not always the channels of S3: a MobileNetV3 has a layer between its pooling and its classifier.
            embedding, own = self.embed(maps), network(noise)
            self.embed_dim = int(embedding.shape[1])
            network.train(was_training)
        self.channels = tuple(int(m.shape[1]) for m in maps[:STAGES])
        if not own.is_meta and (
            embedding.shape != own.shape or not torch.allclose(embedding, own, rtol=1e-3, atol=1e-4)
        ):
            raise ConfigError(
                f"backbone '{name}' makes its embedding another way than from its last map, so that ERM on it would not"
                " be the ordinary network; see 'aimbench list backbones' for ones that do"
            )
        strength = maps[STAGES - 1].pow(2).mean(dim=1).sqrt()
        # A network on the meta device, whose operations are counted, has no values to look at.
        varies = strength.is_meta or bool(strength.std() > NORMALISED * strength.mean())
        self.has_energy = varies and not self.is_token_grid

    def forward(self, image: Tensor, entries: Collection[int] | None = None) -> list[Tensor]:
        """Computes the pyramid.

        Args:
            image: normalised images, ``(N, 3, H, W)``.
            entries: which entries the caller reads; None is all. A hierarchical network stops after the last of
                them, and the list ends there. Of a plain Vision Transformer the other maps come back empty, for
                resampling them costs time.

        Returns:
            ``[S0, S1, S2, S3]``, each ``(N, C_l, H / stride_l, W / stride_l)``.
            For a plain Vision Transformer a fifth entry holds the tokens that
            enter the last block, ``(N, T, C)``: its classifier reads the class
            token there, and attributions are taken there.
        """
        if self.is_token_grid:
            return self._forward_tokens(image, range(STAGES) if entries is None else entries)
        if entries is not None and (last := max(entries)) < STAGES - 1:
            return self.network.forward_intermediates(  # type: ignore[operator,no-any-return]
                image, indices=self._indices[: last + 1], stop_early=True, intermediates_only=True
            )
        final, maps = self.network.forward_intermediates(image, indices=self._indices)  # type: ignore[operator]
        if _is_channels_last(self.network):
            final = final.permute(0, 3, 1, 2)
        return [*maps[: STAGES - 1], final.contiguous()]

    def check_image_size(self, side: int) -> None:
        """Raises ConfigError if the network takes images of one size alone, and ``side`` is another."""
        layer = getattr(self.network, "patch_embed", None)
        size = getattr(layer, "img_size", None)
        if size is not None and getattr(layer, "strict_img_size", False) and tuple(size) != (side, side):
            raise ConfigError(f"backbone '{self.name}' takes images of {size[0]} px, not {side}: set --image-size")

    def check_energy(self, mend: str) -> None:
        """Raises ConfigError, which ends with ``mend``, if the size of S3's vectors tells nothing (``has_energy``)."""
        if not self.has_energy:
            raise ConfigError(
                f"backbone '{self.name}' normalises its last map at every position, so that its energy does not tell"
                f" where it responds: {mend}"
            )

    def check_stagewise(self) -> None:
        """Raises ConfigError if the network's stages cannot be run one by one, as ``advance`` does."""
        stage_modules(self.network, self.name)

    def advance(self, feature: Tensor, stage: int) -> Tensor:
        """Runs the network's own next stage: ``S_stage``, or what a method made of it, to ``S_{stage + 1}``."""
        for module in stage_modules(self.network, self.name)[stage]:
            feature = module(feature)
        return feature

    def embed(self, features: list[Tensor]) -> Tensor:
        """The network's own embedding ``(N, embed_dim)``, as its classifier would receive it."""
        if len(features) > EMBEDDING:
            return features[EMBEDDING]  # cached
        network: Any = self.network
        if self.is_token_grid:
            tokens = network.norm(network.blocks[-1](features[STAGES]))
            return network.forward_head(tokens, pre_logits=True)  # type: ignore[no-any-return]
        final = features[STAGES - 1]
        if _is_channels_last(network):
            final = final.permute(0, 2, 3, 1)
        return network.forward_head(final, pre_logits=True)  # type: ignore[no-any-return]

    def embed_mean(self, mean: Tensor) -> Tensor:
        """What the network's own classifier would receive if ``mean`` were the mean of S3, ``(N, C)`` to the same.

        A ConvNeXt normalises after pooling; a head that pools S3 in its own way goes through the same here. A plain
        Vision Transformer classifies by a token of its own instead, and gives the mean back.
        """
        if self.is_token_grid:
            return mean
        final = mean[:, :, None, None]
        if _is_channels_last(self.network):
            final = final.permute(0, 2, 3, 1)
        return self.network.forward_head(final, pre_logits=True)  # type: ignore[operator,no-any-return]

    def _forward_tokens(self, image: Tensor, entries: Collection[int]) -> list[Tensor]:
        network: Any = self.network
        tokens = network.patch_embed(image)
        tokens = network.norm_pre(network.patch_drop(network._pos_embed(tokens)))
        patch = image.shape[-1] / _grid(network, image)[1]
        maps = [image.new_empty(0)] * STAGES
        for depth, block in enumerate(network.blocks):
            if depth == len(network.blocks) - 1:
                penultimate = tokens
                if STAGES - 1 not in entries:
                    break  # the network's own classifier runs the last block itself, see ``embed``
            tokens = block(tokens)
            if depth in self._indices and (entry := self._indices.index(depth)) in entries:
                maps[entry] = _resample(self.token_map(network.norm(tokens), image), patch / self.strides[entry])
        return [*maps, penultimate]

    def token_map(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Patch tokens ``(N, T, C)`` as a map ``(N, C, h, w)``, class and register tokens dropped."""
        height, width = _grid(self.network, image)
        patches = tokens[:, -height * width :]
        return patches.transpose(1, 2).reshape(len(tokens), -1, height, width)

    @property
    def has_class_token(self) -> bool:
        """Whether a Vision Transformer classifies by a token of its own, the first."""
        return self.is_token_grid and getattr(self.network, "cls_token", None) is not None

    @property
    def has_attention(self) -> bool:
        """Whether the blocks of a plain Vision Transformer give their attention, see ``attention``."""
        return self.is_token_grid and bool(_attention_layers(self.network))

    @torch.no_grad()
    def attention(self, image: Tensor) -> list[Tensor]:
        """Attention of each block of a plain Vision Transformer, ``(N, heads, T, T)``, rows sum to 1.

        Raises:
            ConfigError: the network is no plain Vision Transformer.
        """
        if not self.has_attention:
            raise ConfigError(f"backbone '{self.name}' has no attention over a token grid; choose a ViT")
        layers = _attention_layers(self.network)
        captured: list[Tensor] = []
        # The fused kernel never forms the attention matrix; without it, it passes through the dropout layer.
        fused = [layer.fused_attn for layer in layers]
        hooks = [layer.attn_drop.register_forward_hook(lambda _, __, out: captured.append(out)) for layer in layers]
        try:
            for layer in layers:
                layer.fused_attn = False
            self(image)
        finally:
            for layer, value, hook in zip(layers, fused, hooks, strict=True):
                layer.fused_attn = value
                hook.remove()
        return captured


def create_pyramid(name: str) -> FeaturePyramid:
    """Builds a randomly initialised pyramid of the timm network ``name``.

    Raises:
        ConfigError: timm does not know the name, or the network gives no feature maps.
    """
    import timm  # takes seconds, which whoever only lists a method's settings need not wait

    base = name.split(".")[0]
    if not timm.is_model(base):
        raise ConfigError(f"unknown backbone '{name}': {nearest_names(base, timm.list_models())}")
    network = timm.create_model(name, pretrained=False, num_classes=0)
    if not hasattr(network, "forward_intermediates"):
        raise ConfigError(
            f"backbone '{name}' gives no intermediate feature maps; see 'aimbench list backbones' for ones that do"
        )
    if not _is_hierarchical(network) and not isinstance(network, timm.models.VisionTransformer):
        raise ConfigError(
            f"backbone '{name}' has one stride and is no plain Vision Transformer; see 'aimbench list backbones'"
        )
    return FeaturePyramid(name, network)


def _is_channels_last(network: nn.Module) -> bool:
    return str(getattr(network, "output_fmt", "NCHW")) == "NHWC"  # Swin and its second version


def _is_hierarchical(network: nn.Module) -> bool:
    return _reductions(network)[0] != _reductions(network)[-1]


def _reductions(network: nn.Module) -> list[int]:
    info: Any = network.feature_info
    return [int(entry["reduction"]) for entry in (info if isinstance(info, list) else info.info)]


def _stage_indices(network: nn.Module) -> list[int]:
    """Indices of the intermediates that make S0..S3, among those timm offers."""
    reductions = _reductions(network)
    if reductions[0] == reductions[-1]:
        depth = len(reductions)
        return [depth * (i + 1) // STAGES - 1 for i in range(STAGES)]
    indices = [max(i for i, r in enumerate(reductions) if r == stride) for stride in STRIDES if stride in reductions]
    if len(indices) != STAGES:
        raise ConfigError(
            f"backbone has strides {reductions}, needs {list(STRIDES)}; see 'aimbench list backbones' for ones that fit"
        )
    return indices


def _attention_layers(network: nn.Module) -> list[Any]:
    layers = [getattr(block, "attn", None) for block in network.blocks]  # type: ignore[union-attr]
    return layers if all(hasattr(a, "fused_attn") and hasattr(a, "attn_drop") for a in layers) else []


def _grid(network: nn.Module, image: Tensor) -> tuple[int, int]:
    height, width = network.patch_embed.dynamic_feat_size(image.shape[-2:])  # type: ignore[union-attr,operator]
    return int(height), int(width)


def _resample(tokens: Tensor, factor: float) -> Tensor:
    if factor > 1:
        return F.interpolate(tokens, scale_factor=factor, mode="bilinear", align_corners=False)
    if factor < 1:
        return F.avg_pool2d(tokens, kernel_size=round(1 / factor))
    return tokens
