"""Warnings that point at the user's line."""

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(message: str) -> None:
    """Warn at the first frame outside of torch and this package."""
    inside = (__name__.split(".")[0] + ".", "torch.")
    frame, level = sys._getframe(1), 2
    while frame.f_back and f"{frame.f_globals.get('__name__', '')}.".startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
