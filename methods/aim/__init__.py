"""AIM: amending inherent interpretability via self-supervised masking (ICCV 2025). See README.md."""

from aimbench.methods.aim.method import AIM

__all__ = ["AIM"]
