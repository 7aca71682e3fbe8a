"""Directional pruning: train once with gRDA, end sparse at the accuracy of the dense network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deploy import compact, export_onnx, load_sparse, save_sparse
    from .optim import GRDA, Directional, Target, grda, prunable_groups
    from .sparsity import SparsityMonitor, SparsityReport, freeze_zeros, sparse_average, sparsity_report

__version__ = "0.1.0"

__all__ = [
    # train
    "GRDA",
    "Directional",
    "Target",
    "grda",
    "prunable_groups",
    # look
    "SparsityMonitor",
    "SparsityReport",
    "sparsity_report",
    # lock
    "freeze_zeros",
    "sparse_average",
    # ship
    "compact",
    "export_onnx",
    "load_sparse",
    "save_sparse",
]

_ROOMS = {
    "optim": ("GRDA", "Directional", "Target", "grda", "prunable_groups"),
    "sparsity": ("SparsityMonitor", "SparsityReport", "sparsity_report", "freeze_zeros", "sparse_average"),
    "deploy": ("compact", "export_onnx", "load_sparse", "save_sparse"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``dirprune --help`` does not wait for torch."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
