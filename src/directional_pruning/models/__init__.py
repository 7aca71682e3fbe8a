"""Architectures only."""

from .chars import CharTransformer, chars_net
from .digits import digits_net

__all__ = ["CharTransformer", "chars_net", "digits_net"]
