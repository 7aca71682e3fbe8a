"""Count the zeros of a network, lock them, and keep them in averages."""

from .averages import sparse_average
from .freeze import FrozenZeros, freeze_zeros
from .stats import LayerSparsity, SparsityReport, sparsity_report

__all__ = ["FrozenZeros", "LayerSparsity", "SparsityReport", "freeze_zeros", "sparse_average", "sparsity_report"]
