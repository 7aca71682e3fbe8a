"""The method: the optimizers that prune while they train."""

from .grda import GRDA, grda
from .groups import prunable_groups

__all__ = ["GRDA", "grda", "prunable_groups"]
