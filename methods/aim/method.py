"""AIM as the harness sees it, and its control without masks."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from aimbench.methods.aim.config import AIMConfig
from aimbench.methods.aim.loss import aim_loss, epochs_of, is_noisy, temperature
from aimbench.methods.aim.model import AIMHead
from aimbench.methods.aim.presets import ENERGY, PRESETS
from aimbench.train.api import (
    STAGES,
    Batch,
    Classifier,
    FeaturePyramid,
    Head,
    Loss,
    Method,
    MethodConfig,
    Output,
    Phase,
    Progress,
    Regime,
    Run,
    register_method,
)

OWN_RATE = 30.0
"""Rate of the classifier that ``features=both`` adds, relative to the head's: ERM's 3e-3 at AIM's default."""


@register_method(
    "aim",
    regime=Regime(train="class", select="class"),
    source="Alshami, Agnihotri, Schiele, Keuper, ICCV 2025, arXiv 2508.11502",
)
class AIM(Method):
    """Self-supervised top-down feature masking: the network chooses where to look before it classifies."""

    Config: ClassVar[type[MethodConfig]] = AIMConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}  # chosen by plans/baselines.yaml
    splits_batches = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def build(self, pyramid: FeaturePyramid, num_classes: int, *, frozen: bool) -> Head:
        """The top-down path with its masks and classifiers."""
        if self.config.objectness and self.config.masks == "learned":
            pyramid.check_energy(f"set objectness=0 for method '{self.name}'")
        standardize = frozen if self.config.standardize is None else self.config.standardize
        given = "mask" in self.regime.fields
        return AIMHead(pyramid, num_classes, self.config, standardize=standardize, given=given)

    def phases(self, run: Run) -> Iterator[Phase]:
        """One phase. While the target area falls or masks are drawn, the model is not yet AIM's and is no candidate."""
        yield Phase(candidates_from=math.ceil(epochs_of(self._settled_from(), run.config.epochs)))

    def loss(self, model: Classifier, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropies of all classifiers plus the active-area term."""
        head: AIMHead = model.head  # type: ignore[assignment]
        head.gate.temperature = temperature(self.config, progress)
        head.gate.noise = is_noisy(self.config, progress)
        return aim_loss(model(batch), batch.label, self.config, progress)

    def learning_rates(self) -> dict[str, float]:
        """Mask estimators and 3x3 convolutions learn at rates of their own; a classifier on S3 beside AIM's faster."""
        stages = range(self.config.stop_stage, STAGES)
        factors = {f"topdown.stage{index}.mask": self.config.mask_lr_factor for index in stages}
        if self.config.features != "backbone":
            factors |= {f"topdown.stage{index}.branch.smooth": self.config.smooth_lr_factor for index in stages}
        return {**factors, "own": OWN_RATE} if self.config.features == "both" else factors

    def _settled_from(self) -> float:
        """Share of the training after which neither the target nor the way masks are decided changes."""
        if self.config.masks == "open":
            return 0.0
        annealed = self.config.anneal_fraction if self.config.anneal else 0.0
        # Masks that are sampled to the end are sampled in every epoch alike.
        sampled = self.config.noise_until if self.config.noise_until < 1 else 0.0
        return max(annealed, sampled)

    def explain(self, output: Output) -> Tensor | None:
        """Where the prediction's features came from: the mean of the masks that it reads, at the finest resolution."""
        if not output.masks:
            return None
        if self.config.reads_coarsest_mask_alone:
            return output.masks[f"stage{STAGES - 1}"][:, 0]
        size = list(output.masks.values())[-1].shape[-2:]
        masks = [F.interpolate(mask.float(), size=size, mode="nearest") for mask in output.masks.values()]
        total: Tensor = sum(masks[1:], start=masks[0]) / len(masks)
        return total[:, 0]


class TopDownConfig(AIMConfig):
    """AIM's settings without masks of its own; those of masks, their area and their noise are not read."""

    masks: Literal["open"] = "open"
    """Nothing is learned: every position stays, the control that shows what masking itself brings; or, in
    ``aim_oracle``, the ground truth decides."""
    active_area: float = Field(0.25, gt=0, le=1)
    """Not read; its value is part of the definition of the records that there are."""


@register_method(
    "topdown",
    regime=Regime(train="class", select="class"),
    source="aimbench: control for AIM, its top-down path without masks",
)
class TopDown(AIM):
    """AIM's top-down path with every mask open: what the extra layers bring without masking."""

    Config = TopDownConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 3e-4}  # chosen by plans/baselines.yaml
    splits_batches = True


@register_method(
    "aim_oracle",
    regime=Regime(train="masks", select="class"),
    source="aimbench: reference, AIM with the ground truth in the place of its masks",
)
class AIMOracle(TopDown):
    """AIM's top-down path under the ground-truth mask: what AIM's masks could bring if they were perfect."""

    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 3e-4}  # chosen by plans/baselines.yaml
    splits_batches = True


class AIMPlusConfig(AIMConfig):
    """AIM with what goes beyond the paper switched on."""

    features: Literal["topdown", "backbone", "both"] = "both"
    """``both``: a linear classifier on S3 reads the masks that AIM learns. Else as in AIM."""
    predict_from: Literal["finest", "coarsest", "mean"] = "mean"
    """``mean``: AIM's classifiers and the one on S3 predict together. Else as in AIM."""
    objectness: float = Field(1.0, ge=0)
    """Weight in every mask logit of the backbone's own feature energy. As in AIM."""


@register_method(
    "aim_plus",
    regime=Regime(train="class", select="class"),
    source="aimbench: AIM of Alshami et al. 2025 with ERM's own classifier beside its own under its masks",
)
class AIMPlus(AIM):
    """AIM's masks, which start where the backbone responds; under them AIM's classifier and ERM's predict together."""

    Config = AIMPlusConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-4}  # AIM's
    splits_batches = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"energy": ENERGY}
