"""Export a sparse network: the sparse file, the compacted network, ONNX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .compaction import compact

if TYPE_CHECKING:
    from .onnx import export_onnx
    from .size import FileSize, file_size
    from .sparse_file import load_sparse, save_sparse
    from .state_dicts import read_weights

__all__ = ["FileSize", "compact", "export_onnx", "file_size", "load_sparse", "read_weights", "save_sparse"]

_MODULES = {
    "onnx": ("export_onnx",),
    "size": ("FileSize", "file_size"),
    "sparse_file": ("load_sparse", "save_sparse"),
    "state_dicts": ("read_weights",),
}


def __getattr__(name: str) -> Any:
    """Import a name that needs optional packages at its first use; the error names the extra to install."""
    for module, names in _MODULES.items():
        if name in names:
            try:
                return getattr(import_module(f"{__name__}.{module}"), name)
            except ModuleNotFoundError as error:
                extra = "onnx" if module == "onnx" else "files"
                raise ModuleNotFoundError(
                    f"{name} needs {error.name}: pip install 'directional-pruning[{extra}]'"
                ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
