"""What a sparse network is, and what it is worth."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .compact import compact
from .freeze import FrozenZeros, freeze_zeros
from .stats import LayerSparsity, SparsityReport, sparsity_report

if TYPE_CHECKING:
    from .checkpoint import load_sparse, save_sparse
    from .onnx import export_onnx
    from .size import FileSize, file_size
    from .weights import read_weights

__all__ = [
    # look
    "LayerSparsity",
    "SparsityReport",
    "sparsity_report",
    # lock
    "FrozenZeros",
    "freeze_zeros",
    # ship
    "FileSize",
    "compact",
    "export_onnx",
    "file_size",
    "load_sparse",
    "read_weights",
    "save_sparse",
]

_HOME = {
    "FileSize": "size",
    "export_onnx": "onnx",
    "file_size": "size",
    "load_sparse": "checkpoint",
    "read_weights": "weights",
    "save_sparse": "checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import what leaves the house at its first use: counting and locking zeros need torch alone, files more."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra = "onnx" if name == "export_onnx" else "files"
    try:
        module = import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install 'directional-pruning[{extra}]'") from error
    return getattr(module, name)
