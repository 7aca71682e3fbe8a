"""Count the zeros of a network, watch them, lock them, and keep them in averages."""

from .averages import sparse_average
from .freeze import FrozenZeros, freeze_zeros
from .monitor import SparsityMonitor
from .stats import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    "FrozenZeros",
    "LayerSparsity",
    "SparsityMonitor",
    "SparsityReport",
    "freeze_zeros",
    "sparse_average",
    "sparsity_report",
]
