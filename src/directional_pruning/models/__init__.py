"""Architectures only."""

from .digits import digits_net

__all__ = ["digits_net"]
