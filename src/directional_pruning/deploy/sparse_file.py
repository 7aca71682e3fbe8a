"""A sparse network as one small ``.safetensors`` file; ``docs/sparse-format.md`` has the format byte by byte."""

import json
import math
import os
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from zstandard import ZstdError

from ..files import CorruptFileError, replacing
from .codec import Buffers, pack, unpack
from .hidden_zeros import hidden_zeros
from .sparse_table import (
    DENSE_DTYPES,
    DTYPE_NAMES,
    DTYPES,
    ROUNDED_DTYPES,
    WIDE_DTYPES,
    Modules,
    Table,
    check_storable,
    from_metadata,
    modules_of,
    to_metadata,
)

# Element size -> the integer dtype of the same size, through which bits are copied.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# A vector up to this long is a bias, a scale or a running statistic, which rounding would hurt and hardly shrink.
_LONGEST_EXACT_VECTOR = 65_536


def save_sparse(
    model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str], *, values: str = "float32"
) -> None:
    """Write a network to one file, lossless, at about H(s)/(1-s) + 27 bits for each nonzero at sparsity s.

    A tensor with at least a quarter zeros is stored sparse, as the gaps between its nonzeros and their values, if that
    is smaller; every other tensor dense. Zero means that all bits are zero, so -0.0 and NaN survive. Entries that are
    one tensor (tied weights) are written once and load as one tensor. The old file stays until the new one is complete.
    Saving takes memory for the compressed bytes, under 100 MB of buffers, and a contiguous CPU copy of one tensor.

    ``values="bfloat16"`` or ``"float16"`` rounds to nearest the float32 and float64 tensors that are stored sparse.
    They have their old dtype when loaded; a nonzero may round to zero. Never rounded: dense tensors, and vectors of up
    to 65,536 elements (biases, norm scales, running statistics).

    The file has what the state dict has, the versions of the modules included. A UserWarning names a weight that is
    sparse in its layer but dense in the state dict, which stores what a mask or a parametrization computes it from.

    Raises ValueError for an unknown ``values``, a finite value that rounding would make infinite, or a tensor that
    cannot be stored (complex128, quantized, sharded, sparse layout, meta); TypeError for what is not a tensor.

    >>> import os, tempfile
    >>> weight = torch.zeros(256, 256)
    >>> weight[0, ::2] = -0.1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     save_sparse({"weight": weight}, path)
    ...     assert load_sparse(path)["weight"].equal(weight) and os.path.getsize(path) < 1000
    """
    if hidden := write_sparse(model_or_state_dict, path, values=values):
        warnings.warn(f"save_sparse: {hidden} (the file has {Path(path).stat().st_size:,} bytes)", stacklevel=2)


def write_sparse(
    model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str], *, values: str
) -> str:
    """As :func:`save_sparse`, but return its warning, empty if there is none."""
    names = ("float32", *ROUNDED_DTYPES)
    if values not in names:
        raise ValueError(f"invalid values: {values!r} (must be one of {', '.join(names)})")
    state = model_or_state_dict
    state = state.state_dict() if isinstance(state, nn.Module) else state
    if not isinstance(state, Mapping):
        raise TypeError(f"cannot store {type(state).__name__}: neither a model nor a state dict")
    for name, tensor in state.items():
        check_storable(name, tensor)
    modules = modules_of(state)
    table: Table = {}
    frames: dict[str, bytes] = {}
    first_names: dict[object, str] = {}
    for name, tensor in state.items():
        first_name = first_names.setdefault(_identity(tensor) if tensor.numel() else name, name)
        if first_name != name:
            table[name] = {"same_as": first_name}
            continue
        table[name], packed = _encode(name, tensor, ROUNDED_DTYPES.get(values))
        if packed:
            frames[name] = packed
    _write(path, state, table, modules, frames)
    return hidden_zeros(model_or_state_dict)


def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file of ``save_sparse``: an ordinary state dict of contiguous CPU tensors, bit for bit.

    It has the versions of the modules too, as ``state_dict()`` does, if the file has them.

    Nothing is unpickled and every checksum is verified. Each size is compared with the bytes in the file before memory
    is allocated. Loading takes memory for the dense tensors and under 100 MB of buffers.

    Raises CorruptFileError, in one line that names the file, if it is truncated, altered, of a newer format, or
    another kind of file; FileNotFoundError if it is missing.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     save_sparse(torch.nn.Linear(4, 2), path)
    ...     assert list(load_sparse(path)) == ["weight", "bias"]
    """
    # safe_open does not name a folder or a missing file in the ordinary way; open does.
    with open(path, "rb") as file:
        try:
            # safetensors checks the header; the bytes come from a map of the file, which costs less.
            with safe_open(os.fspath(path), framework="np") as checked:
                table, modules = from_metadata(checked.metadata() or {})
            state: Any = _read(memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)), table)
        except (SafetensorError, ValueError, RecursionError) as error:
            raise CorruptFileError(f"{os.fspath(path)}: {' '.join(str(error).split())}") from error
    if modules is not None:
        state._metadata = OrderedDict(modules)  # load_state_dict asks it for the version of each module
    return state


def _identity(tensor: Tensor) -> object:
    """A key that is equal for tensors that are the same memory."""
    bits = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), bits


def _flat(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """The elements in row-major order, their bytes viewed as ``dtype``."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # A tensor of one element or none may have any stride, which view() refuses.
    return plain.as_strided((plain.numel(),), (1,)).view(dtype).numpy()


def _raw(tensor: Tensor) -> memoryview:
    return _flat(tensor, torch.uint8).data


def _encode(name: str, tensor: Tensor, rounded: torch.dtype | None) -> tuple[dict[str, Any], bytes]:
    """The tensor's entry in the table, and its frames; no frames if the dense tensor is smaller."""
    entry: dict[str, Any] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)}
    bits = _flat(tensor, _BITS[tensor.itemsize])
    if tensor.dtype not in DENSE_DTYPES and 4 * np.count_nonzero(bits) <= 3 * bits.size:
        exact_vector = tensor.ndim < 2 and tensor.numel() <= _LONGEST_EXACT_VECTOR
        exact = rounded is None or exact_vector or tensor.dtype not in WIDE_DTYPES
        stored = tensor.dtype if exact else rounded
        blocks, frames = pack(bits, lambda nonzeros: _round(name, nonzeros, tensor.dtype, stored))
        if len(frames) < bits.nbytes:
            return {**entry, "crc32": zlib.crc32(frames), "values": DTYPE_NAMES[stored], "blocks": blocks}, frames
    return {**entry, "crc32": zlib.crc32(bits.data)}, b""


def _round(name: str, bits: np.ndarray, dtype: torch.dtype, stored: torch.dtype) -> np.ndarray:
    if stored == dtype:
        return bits
    exact = torch.from_numpy(bits).view(dtype)
    rounded = exact.to(stored)
    lost = rounded.isinf() & exact.isfinite()
    if lost.any():
        raise ValueError(f"cannot round tensor {name!r} to {stored}: {exact[lost][0].item():.6g} becomes infinite")
    return rounded.view(torch.int16).numpy()


def _write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    table: Table,
    modules: Modules | None,
    frames: dict[str, bytes],
) -> None:
    header: dict[str, Any] = {"__metadata__": to_metadata(table, modules)}
    # The widest first and the frames last: then each tensor begins at a multiple of its element size.
    names = [name for name in table if "same_as" not in table[name]]
    names.sort(key=lambda name: 0 if name in frames else -state[name].itemsize)
    end = 0
    for name in names:
        size = len(frames[name]) if name in frames else state[name].nbytes
        dtype, shape = ("U8", [size]) if name in frames else (table[name]["dtype"], table[name]["shape"])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + size]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(frames[name] if name in frames else _raw(state[name]))


def _read(file: memoryview, table: Table) -> dict[str, Tensor]:
    """The tensors of a file that safetensors accepts."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(bytes(file[8:start]))
    if header.keys() - {"__metadata__"} != {name for name, entry in table.items() if "same_as" not in entry}:
        raise ValueError("the table of tensors does not list what the file holds")
    state: OrderedDict[str, Tensor] = OrderedDict()
    buffers = Buffers()
    for name, entry in table.items():
        try:
            first_name = entry.get("same_as")
            if first_name is not None and first_name not in state:
                raise ValueError(f"is the same as {first_name!r}, which does not come before it")
            tied = first_name is not None
            state[name] = state[first_name] if tied else _decode(file[start:], header[name], entry, buffers)
        except (ValueError, ZstdError) as error:
            raise ValueError(f"tensor {name!r}: {error}") from error
    return state


def _decode(data: memoryview, stored: dict[str, Any], entry: dict[str, Any], buffers: Buffers) -> Tensor:
    """The tensor of an entry; ``stored`` is what the header says about its bytes."""
    actual = stored["dtype"], stored["shape"]
    expected = ("U8", stored["shape"]) if "blocks" in entry else (entry["dtype"], entry["shape"])
    if actual != expected:
        raise ValueError(f"is {actual} in the file (must be {expected})")
    raw = data[slice(*stored["data_offsets"])]
    if zlib.crc32(raw) != entry["crc32"]:
        raise ValueError("does not match its checksum")
    if "blocks" in entry:
        return _from_frames(raw, entry, buffers)
    tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
    # A copy, so that the file can be replaced or removed.
    _flat(tensor, torch.uint8)[:] = np.frombuffer(raw, np.uint8)
    return tensor


def _from_frames(raw: memoryview, entry: dict[str, Any], buffers: Buffers) -> Tensor:
    dtype, stored, shape = DTYPES[entry["dtype"]], DTYPES[entry.get("values", "U8")], entry["shape"]
    rounded = dtype in WIDE_DTYPES and stored in ROUNDED_DTYPES.values()
    if dtype in DENSE_DTYPES or not (stored == dtype or rounded):
        raise ValueError(f"cannot be {dtype} with values stored as {stored}")
    blocks = unpack(raw, entry["blocks"], math.prod(shape), stored.itemsize, buffers)
    # The system gives a page of zeros memory only when a nonzero is written to it.
    dense = np.zeros(shape, f"i{dtype.itemsize}")
    flat, bits = dense.reshape(-1), _BITS[dtype.itemsize]
    for block, positions, values in blocks:
        flat[block][positions] = torch.from_numpy(values).view(stored).to(dtype).view(bits).numpy()
    return torch.from_numpy(dense).view(dtype)
