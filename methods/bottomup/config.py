"""Settings of bottom-up masking."""

from pydantic import Field

from aimbench.methods.aim.config import MaskingConfig


class BottomUpConfig(MaskingConfig):
    """Settings of bottom-up masking. ``[stop_stage, active_area]`` as in AIM's notation."""

    stop_stage: int = Field(1, ge=0, le=3)
    """Finest stage that has a mask unit: 1 masks S1, S2 and S3, ..."""
    mask_width: int = Field(64, ge=1)
    """Channels inside a mask unit."""
    standardize: bool | None = None
    """Standardise what mask units and classifier read, channel by channel. None: yes if the backbone is frozen."""
    mask_lr_factor: float = Field(1.0, gt=0)
    """Learning rate of the mask units relative to the head's."""
