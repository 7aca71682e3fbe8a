"""Count the zeros of a network, watch them, lock them, and keep them in averages."""

from importlib import import_module
from typing import Any

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

# These names moved to `deploy`. Imports from here keep working.
_MOVED = ("FileSize", "compact", "export_onnx", "file_size", "load_sparse", "read_weights", "save_sparse")


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(import_module("directional_pruning.deploy"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
