"""Warnings that point at the user's line."""

import sys
import warnings

__all__ = ["warn_caller"]

_LIBRARIES = ("torch", "directional_pruning", "accelerate", "lightning", "pytorch_lightning", "transformers")


def warn_caller(message: str) -> None:
    """Warn at the line outside of torch, of this package and of training libraries that led to the problem."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
