"""Read the weights from a file of any common format."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import CorruptFileError
from ..tensors import read_torch_file
from .exported_programs import is_exported_program, read_exported_program
from .sparse_file import load_sparse
from .sparse_table import FORMAT

__all__ = ["read_weights"]

# Where a training checkpoint may have its state dict.
_KEYS = ("model", "state_dict", "model_state_dict")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors of a file: ``.safetensors`` (sparse or plain), ``.onnx``, of torch.save or torch.export.save.

    A file of ``torch.save`` is read with ``weights_only=True``, so nothing in it is executed. In a training checkpoint
    the state dict may be under "model", "state_dict" or "model_state_dict"; its entries that are no tensors are left
    out. Of an ONNX model the initializers are read, of an
    exported program (``.pt2``) the parameters, buffers and constants.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptFileError: for a file that cannot be read, or that holds no weights.
        ModuleNotFoundError: for a ``.onnx`` file without the package ``onnx``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": torch.nn.Linear(4, 2).state_dict(), "epoch": 3}, f"{folder}/checkpoint.pt")
    ...     list(read_weights(f"{folder}/checkpoint.pt"))
    ['weight', 'bias']
    """
    path = Path(path)
    with open(path, "rb") as file:
        file.read(1)
    if path.suffix == ".onnx":
        return _read_onnx(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return read_exported_program(path) if is_exported_program(path) else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    except SafetensorError as error:
        raise CorruptFileError(f"{path}: {' '.join(str(error).split())}") from error
    return load_sparse(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    content = read_torch_file(path, what="file of weights (.safetensors, .onnx or torch's)")
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    entries = content.items() if isinstance(content, Mapping) else ()
    # A module's extra state may be no tensor.
    state = {name: value for name, value in entries if isinstance(value, Tensor)}
    if not state:
        raise CorruptFileError(f"{path}: holds no state dict")
    return state


def _read_onnx(path: Path) -> dict[str, Tensor]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    def tensor(proto: Any) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(proto).copy())

    try:
        graph = onnx.load(path).graph
        state = {proto.name: tensor(proto) for proto in graph.initializer}
        for proto in graph.sparse_initializer:
            values, positions, shape = tensor(proto.values), tensor(proto.indices), tuple(proto.dims)
            dense = torch.zeros(shape, dtype=values.dtype)
            if positions.ndim == 1:
                dense.view(-1)[positions] = values
            else:
                dense[tuple(positions.T)] = values
            state[proto.values.name] = dense
    except (DecodeError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise CorruptFileError(f"{path}: not a readable ONNX model") from error
    if not state:
        raise CorruptFileError(f"{path}: holds no weights")
    return state
