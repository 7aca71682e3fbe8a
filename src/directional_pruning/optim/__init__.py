"""The method: the optimizers that prune while they train."""

from .directional import Directional
from .dual_averaging import GRDA
from .functional import grda
from .param_groups import prunable_groups

__all__ = ["GRDA", "Directional", "grda", "prunable_groups"]
