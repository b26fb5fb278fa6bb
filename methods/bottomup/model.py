"""The backbone with mask units between its stages.

For stages l = ``stop_stage`` up to 3, with N_l the backbone's own stage::

    S'_l = N_l(O_{l-1})                   the first masked stage is the plain S_l
    B_l  = gumbel(M_l(S'_l))              binary mask, (N, 1, h, w)
    O_l  = S'_l * B_l                     goes forward; O_3 is pooled and classified
"""

import torch
from torch import Tensor, nn

from aimbench.methods.aim.gumbel import Gate
from aimbench.methods.aim.model import MaskEstimator
from aimbench.methods.bottomup.config import BottomUpConfig
from aimbench.train.api import STAGES, FeaturePyramid, Head, Output, Standardize


class MaskUnit(nn.Module):
    """Mask logits of one stage, ``(N, C, h, w)`` to ``(N, 1, h, w)``, by AIM's estimator."""

    def __init__(self, channels: int, config: BottomUpConfig, *, standardize: bool) -> None:
        super().__init__()
        self.standardize = Standardize(channels) if standardize else nn.Identity()
        self.estimator = MaskEstimator(channels, config.mask_width, config.initial_logit)

    def forward(self, feature: Tensor) -> Tensor:
        """Positive is open."""
        logits: Tensor = self.estimator(self.standardize(feature))
        return logits


class BottomUpHead(Head):
    """Takes the pyramid at its first masked stage and runs the backbone's later stages itself.

    So the backbone computes nothing twice, and with frozen weights only that one map has to be kept.

    Raises:
        ConfigError: the backbone's stages cannot be run one by one.
    """

    def __init__(self, pyramid: FeaturePyramid, num_classes: int, config: BottomUpConfig, *, standardize: bool) -> None:
        super().__init__()
        self.first = config.stop_stage
        self.stages = (self.first,)
        self.gate = Gate(config.temperature)
        # Bound methods, so that the pyramid is not registered twice.
        self._advance, self._embed = pyramid.advance, pyramid.embed
        pyramid.check_stagewise()
        self.units = nn.ModuleDict()
        if config.masks == "learned":
            for index in range(self.first, STAGES):
                self.units[f"stage{index}"] = MaskUnit(pyramid.channels[index], config, standardize=standardize)
        self.standardize = Standardize(pyramid.embed_dim) if standardize else nn.Identity()
        self.classifier = nn.Linear(pyramid.embed_dim, num_classes)

    def forward(self, features: list[Tensor], mask: Tensor | None = None) -> Output:
        """Classifies from ``features[stop_stage]`` on, fine to coarse."""
        masks: dict[str, Tensor] = {}
        probabilities: dict[str, Tensor] = {}
        feature = features[self.first]
        for index in range(self.first, STAGES):
            if index > self.first:
                feature = self._advance(feature, index - 1)
            name = f"stage{index}"
            if name in self.units:
                logits = self.units[name](feature)
                masks[name] = self.gate(logits)
                probabilities[name] = torch.sigmoid(logits)
                feature = feature * masks[name]
        embedding = self._embed([feature] * STAGES)
        logits = self.classifier(self.standardize(embedding))
        coarse_to_fine = list(reversed(masks))
        return Output(
            logits=logits,
            stage_logits={f"stage{STAGES - 1}": logits},
            masks={name: masks[name] for name in coarse_to_fine},
            mask_probabilities={name: probabilities[name] for name in coarse_to_fine},
            embedding=embedding,
            last_map=feature,
        )
