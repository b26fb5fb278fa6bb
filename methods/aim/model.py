"""AIM's network: mask estimators, top-down features, fusion, classifiers.

For stages l = 3 down to ``stop_stage``, with S_l the backbone's map::

    T_l = conv3x3(conv1x1(S_l))           top-down features, (N, d, h, w)
    B_l = gumbel(M_l(S_l))                binary mask, (N, 1, h, w)
    O_l = T_l * B_l                       masked features
    F_l = O_l + upsample(F_{l+1})         fused features, F_3 = O_3
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.gumbel import binary_gumbel
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
        self.lateral = nn.Conv2d(channels, config.width, 1)
        self.smooth = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.guided = guided
        self.mask = None
        if config.masks == "learned":
            entering = channels + (config.width if guided else 0)
            self.mask = MaskEstimator(entering, config.mask_width, config.initial_logit)

    def forward(self, feature: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Top-down features ``(N, d, h, w)`` and mask logits ``(N, 1, h, w)`` (None: every position open).

        ``coarser`` is the fused map of the coarser stage at this stage's resolution.
        """
        feature = self.standardize(feature)
        top_down = self.smooth(self.lateral(feature))
        if self.mask is None:
            return top_down, None
        if self.guided and coarser is not None:
            # The guide informs the mask; the mask's gradient does not reshape the guide.
            feature = torch.cat([feature, coarser.detach()], dim=1)
        return top_down, self.mask(feature)


class AIMHead(Head):
    """The top-down path on a backbone's pyramid."""

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, config: AIMConfig, *, standardize: bool) -> None:
        super().__init__()
        self.config = config
        self.stages = tuple(range(config.stop_stage, STAGES))
        self.temperature = config.temperature
        self._order = [f"stage{index}" for index in reversed(self.stages)]  # coarse to fine
        self.topdown = nn.ModuleDict()
        self.classifiers = nn.ModuleDict()
        for name, index in zip(self._order, reversed(self.stages), strict=True):
            guided = config.guided and name != self._order[0]
            self.topdown[name] = TopDownStage(
                pyramid.channels[index], config, guided=guided, standardize=standardize
            )
            self.classifiers[name] = nn.Linear(config.width, num_classes)
        # Before fusion the stage classifiers never see the fused map, so it has a classifier of its own.
        self.final = nn.Linear(config.width, num_classes) if config.loss_on == "masked" else None

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies a pyramid top-down, coarse to fine."""
        stage_logits: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        probabilities: dict[str, Tensor] = {}
        fused: Tensor | None = None
        opened: Tensor | None = None  # positions that reach the fused map
        for name, index in zip(self._order, reversed(self.stages), strict=True):
            size = features[index].shape[-2:]
            coarser = None if fused is None else F.interpolate(fused, size=size, mode="nearest")
            top_down, logits = self.topdown[name](features[index], coarser)
            if logits is None:
                binary = torch.ones_like(top_down[:, :1])
            else:
                binary = binary_gumbel(logits, self.temperature, sample=self.training)
                probabilities[name] = torch.sigmoid(logits)
                masks[name] = binary
            masked = top_down * binary
            fused = masked if coarser is None else masked + coarser
            opened = binary if opened is None else torch.maximum(binary, F.interpolate(opened, size=size))
            if self.config.loss_on == "masked":
                stage_logits[name] = self.classifiers[name](self._pool(masked, binary))
            else:
                stage_logits[name] = self.classifiers[name](self._pool(fused, opened))
        assert fused is not None
        assert opened is not None
        embedding = self._pool(fused, opened)
        if self.final is not None:
            stage_logits["fused"] = self.final(embedding)
        return Output(
            logits=self._predict(stage_logits),
            stage_logits=stage_logits,
            masks=masks,
            mask_probabilities=probabilities,
            embedding=embedding,
        )

    def _pool(self, features: Tensor, active: Tensor) -> Tensor:
        if self.config.pool == "all":
            return features.mean(dim=(2, 3))
        return features.sum(dim=(2, 3)) / active.sum(dim=(2, 3)).clamp(min=1.0)

    def _predict(self, stage_logits: dict[str, Tensor]) -> Tensor:
        if self.config.predict_from == "coarsest":
            return stage_logits[self._order[0]]
        if self.config.predict_from == "mean":
            return torch.stack(list(stage_logits.values())).mean(dim=0)
        return next(reversed(stage_logits.values()))
