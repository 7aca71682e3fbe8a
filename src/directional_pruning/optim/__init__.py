"""The method: the optimizers that prune while they train."""

from .directional import Directional
from .dual_averaging import GRDA
from .functional import grda
from .param_groups import prunable_groups
from .target import Target

__all__ = ["GRDA", "Directional", "Target", "grda", "prunable_groups"]
