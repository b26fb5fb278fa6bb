"""Bottom-up masking as the harness sees it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from aimbench.methods.aim.method import AIM
from aimbench.methods.aim.presets import PAPER
from aimbench.methods.bottomup.config import BottomUpConfig
from aimbench.methods.bottomup.model import BottomUpHead
from aimbench.train.api import FeaturePyramid, Head, Regime, register_method

# AIM's of the same name, as far as there is a top-down path to set.
PRESETS = {
    name: {setting: value for setting, value in settings.items() if setting in BottomUpConfig.model_fields}
    for name, settings in PAPER.items()
}


@register_method(
    "bottomup",
    regime=Regime(train="class", select="class"),
    source="Verelst, Tuytelaars, CVPR 2020, arXiv 1912.03203; the ablation of AIM's paper, arXiv 2508.11502",
)
class BottomUp(AIM):
    """Mask units inside the backbone: masked features go forward into the next stage. AIM's objective and schedule."""

    Config = BottomUpConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-3}
    splits_batches = True
    presets = PRESETS

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The backbone's later stages with a mask unit before each, and the ordinary classifier."""
        standardize = frozen if self.config.standardize is None else self.config.standardize
        return BottomUpHead(pyramid, num_classes, self.config, standardize=standardize)

    def learning_rates(self) -> dict[str, float]:
        """The mask units may learn at a rate of their own."""
        return {"units.": self.config.mask_lr_factor}
