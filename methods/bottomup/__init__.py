"""Bottom-up masking: mask units inside the backbone."""

from aimbench.methods.bottomup.method import BottomUp

__all__ = ["BottomUp"]
