"""Directional pruning: train once with gRDA, end sparse at the accuracy of the dense network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .optim import GRDA, Directional, grda, prunable_groups
    from .sparsity import (
        SparsityReport,
        compact,
        export_onnx,
        freeze_zeros,
        load_sparse,
        save_sparse,
        sparsity_report,
    )

__version__ = "0.1.0"

__all__ = [
    # train
    "GRDA",
    "Directional",
    "grda",
    "prunable_groups",
    # look
    "SparsityReport",
    "sparsity_report",
    # lock
    "freeze_zeros",
    # ship
    "compact",
    "export_onnx",
    "load_sparse",
    "save_sparse",
]


_HOME = {
    "GRDA": "optim",
    "Directional": "optim",
    "grda": "optim",
    "prunable_groups": "optim",
    "SparsityReport": "sparsity",
    "freeze_zeros": "sparsity",
    "sparsity_report": "sparsity",
    "compact": "sparsity",
    "export_onnx": "sparsity",
    "load_sparse": "sparsity",
    "save_sparse": "sparsity",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``dirprune --help`` does not wait for torch."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
