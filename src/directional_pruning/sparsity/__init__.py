"""What a sparse network is, and what it is worth."""

from .checkpoint import load_sparse, save_sparse
from .stats import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    # look
    "LayerSparsity",
    "SparsityReport",
    "sparsity_report",
    # ship
    "load_sparse",
    "save_sparse",
]
