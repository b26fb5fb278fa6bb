"""AIM's settings. Each choice that the paper's text leaves open is a field here."""

from typing import Literal, Self

from pydantic import Field, model_validator

from aimbench.train.api import MethodConfig


class MaskingConfig(MethodConfig):
    """Settings of masks that are learned towards a target area, whichever way they are used."""

    stop_stage: int = Field(3, ge=0, le=3)
    """Finest stage that has a mask: 3 keeps the last, 2 the last two, ..."""
    active_area: float = Field(0.25, gt=0, le=1)
    """Target share of active mask positions (the paper: 0.25 or 0.35)."""
    area_weight: float = Field(6.0, ge=0)
    """Lambda: weight of the active-area term. 0 leaves the masks without any target."""
    area_over: Literal["batch", "image"] = "batch"
    """Whether the share is compared with its target as the batch's mean or image by image."""
    anneal: bool = True
    """The target falls linearly from 1 to ``active_area``, epoch by epoch; else it holds from the start."""
    anneal_fraction: float = Field(0.25, gt=0, le=1)
    """Share of the training after which the target is reached."""
    noise_until: float = Field(0.25, ge=0, le=1)
    """Share of the training during which masks are sampled; from then on they are decided as in evaluation, still
    with the relaxation's gradient. 1 samples to the end: the classifiers then learn on masks that they never meet."""
    masks: Literal["learned", "open"] = "learned"
    """``open`` learns no mask and keeps every position: the same network without masking, as a control."""
    initial_logit: float = 3.0
    """Bias of the mask logits at the start; positive means open."""
    temperature: float = Field(1.0, gt=0)
    """Of the Gumbel-softmax."""
    final_temperature: float | None = Field(None, gt=0)
    """If given, the temperature moves linearly to this value over the training."""

    @property
    def reads_coarsest_mask_alone(self) -> bool:
        """Whether of several masks only the coarsest stage's decides what the prediction reads."""
        return False


class AIMConfig(MaskingConfig):
    """Settings of AIM. ``AIM[stop_stage, active_area]`` in the paper's notation."""

    active_area: float = Field(0.15, gt=0, le=1)
    """Target share of active mask positions (the paper: 0.25 or 0.35)."""
    loss_on: Literal["masked", "fused"] = "masked"
    """Stage classifiers learn on the masked features before fusion, or on the fused ones after it."""
    predict_from: Literal["finest", "coarsest", "mean"] = "finest"
    """Prediction: the classifier on the last fused, finest map; the coarsest stage's; or the mean of all logits."""
    pool: Literal["all", "active"] = "active"
    """Classifiers pool over all positions (masked ones count as zero) or over the active ones."""
    guided: bool = False
    """Beyond the paper: a finer stage's mask estimator also sees the coarser stage's fused map."""
    objectness: float = Field(0.0, ge=0)
    """Beyond the paper: weight in every mask logit of the backbone's own feature energy, standardised within the
    image. Positions where the pretrained network responds little then close first."""
    features: Literal["topdown", "backbone", "both"] = "topdown"
    """Beyond the paper: ``backbone`` lets the classifier read S3 itself under the mask, as ERM reads it without one;
    ``both`` learns the masks by the top-down features, and predicts by a linear classifier on S3 beside them, which
    learns at 30 times their rate and whose loss does not pass through the masks; with ``predict_from=mean`` by both."""
    width: int = Field(256, ge=1)
    """Channels of the top-down features."""
    smooth_start: Literal["random", "identity"] = "identity"
    """The 3x3 convolution of the top-down features at the start: random, or handing on what the 1x1 gives it."""
    smooth_lr_factor: float = Field(0.1, gt=0)
    """Learning rate of the 3x3 convolution relative to the head's."""
    mask_width: int = Field(64, ge=1)
    """Channels inside the mask estimator."""
    standardize: bool | None = None
    """Standardise backbone features channel by channel on entry. None: yes if the backbone is frozen."""
    mask_lr_factor: float = Field(3.0, gt=0)
    """Learning rate of the mask estimators relative to the head's."""

    @property
    def reads_coarsest_mask_alone(self) -> bool:
        """Whether of several masks only the coarsest stage's decides what the prediction reads."""
        return (self.features == "both" and self.predict_from == "finest") or self.predict_from == "coarsest"

    @model_validator(mode="after")
    def _one_stage_without_topdown(self) -> Self:
        if self.stop_stage == 3 and self.guided:
            raise ValueError("guided=true needs a coarser stage to be guided by: stop_stage below 3")
        if self.stop_stage == 3 and self.loss_on == "fused":
            raise ValueError("loss_on=fused needs stages that are fused: stop_stage below 3")
        if self.features == "backbone" and self.stop_stage != 3:
            raise ValueError("features=backbone has nothing to fuse: it needs stop_stage=3")
        if self.stop_stage == 3 and self.features != "both" and self.predict_from != "finest":
            raise ValueError(f"predict_from={self.predict_from} needs several classifiers: stop_stage below 3")
        if self.features == "both" and (self.predict_from == "coarsest" or self.masks == "open"):
            raise ValueError("features=both predicts under masks: predict_from=finest or mean, masks=learned")
        return self
