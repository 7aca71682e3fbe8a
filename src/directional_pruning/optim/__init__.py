"""The method: the optimizers that prune while they train."""

from .directional import Directional
from .grda import GRDA, grda
from .groups import prunable_groups

__all__ = ["GRDA", "Directional", "grda", "prunable_groups"]
