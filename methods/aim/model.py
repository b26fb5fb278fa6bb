"""AIM's network: mask estimators, top-down features, fusion, classifiers.

For stages l = 3 down to ``stop_stage``, with S_l the backbone's map::

    T_l = conv3x3(conv1x1(S_l))           top-down features, (N, d, h, w)
    B_l = gumbel(M_l(S_l))                binary mask, (N, 1, h, w)
    O_l = T_l * B_l                       masked features
    F_l = O_l + upsample(F_{l+1})         fused features, F_3 = O_3
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.methods.aim.branches import BackboneBranch, TopDownBranch, energy
from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.gumbel import Gate
from aimbench.train.api import STAGES, FeaturePyramid, Head, Output, Standardize


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` to the same shape."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + inner)


class MaskEstimator(nn.Module):
    """Decides from a stage's features which positions stay: logits ``(N, 1, h, w)``, positive is open.

    A 3x3 convolution, three residual blocks, a global-average-pool branch
    added back, a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, initial_logit: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(3)))
        self.context = nn.Conv2d(width, width, 1)
        self.logit = nn.Conv2d(width, 1, 1)
        # Small weights and a positive bias: every mask starts open, whatever the image.
        nn.init.normal_(self.logit.weight, std=0.01)
        nn.init.constant_(self.logit.bias, initial_logit)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits of ``(N, C, h, w)`` features."""
        x = self.blocks(self.stem(x))
        x = x + self.context(x.mean(dim=(2, 3), keepdim=True))
        logits: Tensor = self.logit(F.relu(x))
        return logits


class TopDownStage(nn.Module):
    """One stage: feature branch and mask estimator on the same backbone map."""

    def __init__(self, channels: int, config: AIMConfig, *, guided: bool, standardize: bool) -> None:
        super().__init__()
        self.standardize = Standardize(channels) if standardize else nn.Identity()
        self.branch: TopDownBranch | BackboneBranch
        if config.features == "backbone":
            self.branch = BackboneBranch(channels)
        else:
            self.branch = TopDownBranch(channels, config.width, start=config.smooth_start)
        self.objectness = config.objectness
        self.mask = None
        if config.masks == "learned":
            entering = channels + (config.width if guided else 0)
            self.mask = MaskEstimator(entering, config.mask_width, config.initial_logit)

    def mask_logits(self, feature: Tensor, guide: Tensor | None, objectness: Tensor | None) -> Tensor | None:
        """Mask logits ``(N, 1, h, w)``, or None where every position stays open.

        ``guide`` is the coarser stage's fused map at this stage's resolution. It informs the mask; the
        mask's gradient does not reshape it. ``objectness`` is S3's energy, ``(N, 1, h3, w3)``.
        """
        if self.mask is None:
            return None
        logits: Tensor = self.mask(feature if guide is None else torch.cat([feature, guide.detach()], dim=1))
        if objectness is not None:
            prior = F.interpolate(objectness.detach(), size=logits.shape[-2:], mode="bilinear", align_corners=False)
            logits = logits + self.objectness * prior
        return logits


def linear_classifier(channels: int, num_classes: int, *, standardize: bool) -> nn.Module:
    """A linear layer on pooled features, standardised as ERM's if wished."""
    linear = nn.Linear(channels, num_classes)
    return nn.Sequential(Standardize(channels), linear) if standardize else linear


def object_share(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The object's share of each position, relative to the position where it is largest: ``(N, 1, h, w)`` in [0, 1].

    Args:
        mask: ground truth ``(N, 1, H, W)`` in [0, 1]; without a pixel of object every position counts.
        size: h and w.
    """
    share = F.adaptive_avg_pool2d(mask, size)
    largest = share.amax(dim=(2, 3), keepdim=True)
    return torch.where(largest > 0, share / largest.clamp_min(1e-12), torch.ones_like(share))


class AIMHead(Head):
    """The top-down path on a backbone's pyramid.

    Args:
        pyramid: the backbone.
        num_classes: K.
        config: AIM's settings.
        standardize: whether features are standardised on entry.
        given: the ground-truth mask takes the place of learned ones (``masks`` must not be ``learned``).
    """

    def __init__(
        self, pyramid: FeaturePyramid, num_classes: int, config: AIMConfig, *, standardize: bool, given: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.reads_mask = given
        self.stages = tuple(range(config.stop_stage, STAGES))
        self.gate = Gate(config.temperature)
        # A bound method, so that the pyramid is not registered twice.
        self._embed_mean = pyramid.embed_mean
        # The backbone's own features go through its embedding and are standardised after pooling, as ERM's are.
        of_backbone = config.features == "backbone"
        self._order = {f"stage{index}": index for index in reversed(self.stages)}  # coarse to fine
        self.topdown = nn.ModuleDict()
        self.classifiers = nn.ModuleDict()
        for name, index in self._order.items():
            guided = config.guided and index != STAGES - 1
            stage = TopDownStage(pyramid.channels[index], config, guided=guided, standardize=standardize)
            self.topdown[name] = stage
            read = pyramid.embed_dim if of_backbone else stage.branch.channels
            self.classifiers[name] = linear_classifier(read, num_classes, standardize=of_backbone and standardize)
        # Before fusion the stage classifiers never see the fused map, so it has a classifier of its own.
        # A single stage has nothing to fuse.
        fuses = len(self.stages) > 1
        self.final = nn.Linear(config.width, num_classes) if fuses and config.loss_on == "masked" else None
        self.own: nn.Module | None = None
        if config.features == "both":
            self.own = linear_classifier(pyramid.embed_dim, num_classes, standardize=standardize)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies a pyramid top-down, coarse to fine; ``mask`` is ground truth, where it was ``given``."""
        # GradCAM reads the map that is pooled: with gradients on in evaluation, the maps are made.
        explained = not self.training and torch.is_grad_enabled()
        by_mean = self._fuses_means(features) and not explained
        stage_logits: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        probabilities: dict[str, Tensor] = {}
        coarsest_map: Tensor | None = None
        fused_map: Tensor | None = None
        fused_mean: Tensor | None = None
        opened: Tensor | None = None  # positions that reach the fused map
        objectness = energy(features[STAGES - 1]) if self.config.objectness else None
        for name, index in self._order.items():
            stage: TopDownStage = self.topdown[name]  # type: ignore[assignment]
            feature = stage.standardize(features[index])
            size = feature.shape[-2:]
            coarser = None if fused_map is None else F.interpolate(fused_map, size=size, mode="nearest")
            logits = stage.mask_logits(feature, coarser if self.config.guided else None, objectness)
            binary = self._unlearned(feature, mask) if logits is None else self.gate(logits)
            read = features[index] if self.config.features == "backbone" else feature
            if logits is not None:
                masks[name], probabilities[name] = binary, torch.sigmoid(logits)
            if by_mean:
                masked_mean = stage.branch.masked_mean(read, binary)
                fused_mean = masked_mean if fused_mean is None else masked_mean + fused_mean
            else:
                masked = stage.branch.masked_map(read, binary)
                fused_map = masked if coarser is None else masked + coarser
                coarsest_map = fused_map if coarsest_map is None else coarsest_map
                masked_mean, fused_mean = masked.mean(dim=(2, 3)), fused_map.mean(dim=(2, 3))
            opened = binary if opened is None else torch.maximum(binary, F.interpolate(opened, size=size))
            before_fusion = self.config.loss_on == "masked"
            embedding = self._pooled(masked_mean, binary) if before_fusion else self._pooled(fused_mean, opened)
            if self.config.features == "backbone":
                embedding = self._embed_mean(embedding)
            stage_logits[name] = self.classifiers[name](embedding)
        assert fused_mean is not None
        assert opened is not None
        last_map = coarsest_map if self.config.predict_from == "coarsest" else fused_map
        if self.final is not None:
            embedding = self._pooled(fused_mean, opened)
            stage_logits["fused"] = self.final(embedding)
        if self.own is not None:
            seen = masks[f"stage{STAGES - 1}"].detach()
            last_map = features[STAGES - 1] * seen
            embedding = self._embed_mean(self._pooled(last_map.mean(dim=(2, 3)), seen))
            stage_logits["own"] = self.own(embedding)
        return Output(
            logits=self._predict(stage_logits),
            stage_logits=stage_logits,
            masks=masks,
            mask_probabilities=probabilities,
            embedding=embedding,
            last_map=last_map,
        )

    def _unlearned(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """What stands in a learned mask's place, ``(N, 1, h, w)``: every position open, or the ground truth."""
        if not self.reads_mask:
            return torch.ones_like(feature[:, :1])
        assert mask is not None
        return object_share(mask, (feature.shape[-2], feature.shape[-1])).to(feature.dtype)

    def _fuses_means(self, features: list[Tensor]) -> bool:
        """Whether means are enough: no mask estimator reads a map, and upsampling keeps means."""
        sides = [features[index].shape[-2:] for index in self._order.values()]
        divides = all(f[0] % c[0] == 0 and f[1] % c[1] == 0 for c, f in itertools.pairwise(sides))
        return divides and not self.config.guided

    def _pooled(self, mean: Tensor, active: Tensor) -> Tensor:
        if self.config.pool == "all":
            return mean
        # Mean over active positions; a mask that is closed everywhere gives zero.
        positions = active.shape[-2] * active.shape[-1]
        return mean / active.mean(dim=(2, 3)).clamp(min=1.0 / positions)

    def _predict(self, stage_logits: dict[str, Tensor]) -> Tensor:
        if self.config.predict_from == "coarsest":
            return stage_logits[f"stage{STAGES - 1}"]
        if self.config.predict_from == "mean":
            return torch.stack(list(stage_logits.values())).mean(dim=0)
        return next(reversed(stage_logits.values()))
