"""Images and text as tensors on the device."""

from .chars import VOCABULARY, TextSplits, Windows, chars
from .digits import digits
from .images import Images, Splits

__all__ = ["VOCABULARY", "Images", "Splits", "TextSplits", "Windows", "chars", "digits"]
