"""What a sparse network is, and what it is worth."""

from typing import TYPE_CHECKING, Any

from .stats import LayerSparsity, SparsityReport, sparsity_report

if TYPE_CHECKING:
    from .checkpoint import load_sparse, save_sparse

__all__ = [
    # look
    "LayerSparsity",
    "SparsityReport",
    "sparsity_report",
    # ship
    "load_sparse",
    "save_sparse",
]


def __getattr__(name: str) -> Any:
    """Import the file format at its first use: counting zeros needs torch alone, the file more."""
    if name not in ("load_sparse", "save_sparse"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import checkpoint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install 'directional-pruning[files]'") from error
    return getattr(checkpoint, name)
