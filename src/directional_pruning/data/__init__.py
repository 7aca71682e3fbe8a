"""Images as tensors on the device."""

from .digits import digits
from .images import Images, Splits

__all__ = ["Images", "Splits", "digits"]
