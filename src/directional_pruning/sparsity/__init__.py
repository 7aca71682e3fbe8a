"""Count the zeros of a network and lock them."""

from .freeze import FrozenZeros, freeze_zeros
from .stats import LayerSparsity, SparsityReport, sparsity_report

__all__ = ["FrozenZeros", "LayerSparsity", "SparsityReport", "freeze_zeros", "sparsity_report"]
