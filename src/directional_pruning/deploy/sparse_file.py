"""A sparse network as one small ``.safetensors`` file; ``docs/sparse-format.md`` has the format byte by byte."""

import json
import math
import os
import zlib
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from zstandard import ZstdError

from ..files import CorruptFileError, replacing
from .codec import Workspace, pack, unpack

_FORMAT, _VERSION = "directional-pruning-sparse", "1"
_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_VALUES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WIDE = (torch.float32, torch.float64)
_MOST_DIMENSIONS = 64
_PLAIN = (torch.bool, torch.complex64)
# A vector up to this long is a bias, a scale or a running statistic, which rounding would hurt and hardly shrink.
_LONGEST_EXACT_VECTOR = 65_536


def save_sparse(
    model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str], *, values: str = "float32"
) -> None:
    """Write a network to one file that costs about H(s)/(1-s) + 27 bits a nonzero at sparsity s, and no bit of it lost.

    A tensor with at least a quarter zeros is stored as the gaps between its nonzeros and their values, if that is
    smaller; every other one as it is. Zero means all bits zero, so -0.0 and NaN survive. Entries that are one tensor
    (tied weights) are written once and load as one tensor. The old file stays until the new one is whole; while
    saving, memory holds the compressed bytes, under 100 MB of working space, and one tensor's contiguous CPU copy.

    ``values="bfloat16"`` or ``"float16"`` rounds to nearest the float32 and float64 tensors stored by gaps, which
    keep their dtype when loaded; a nonzero may round to zero. Exact in any case: dense tensors, and vectors of up to
    65,536 elements (biases, norm scales, running statistics).

    Raises ValueError for an unknown ``values``, a finite value that rounding would make infinite, or a tensor that
    cannot be stored (complex128, quantized, sparse layout, meta); TypeError for an entry that is no tensor.

    >>> import os, tempfile
    >>> weight = torch.zeros(256, 256)
    >>> weight[0, ::2] = -0.1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     save_sparse({"weight": weight}, path)
    ...     assert load_sparse(path)["weight"].equal(weight) and os.path.getsize(path) < 1000
    """
    if values not in _VALUES:
        raise ValueError(f"invalid values: {values!r} (must be one of {', '.join(_VALUES)})")
    state = model_or_state_dict
    state = state.state_dict() if isinstance(state, nn.Module) else state
    if not isinstance(state, Mapping):
        raise TypeError(f"cannot store {type(state).__name__}: neither a model nor a state dict")
    table: dict[str, dict[str, Any]] = {}
    packed: dict[str, bytes] = {}
    owners: dict[object, str] = {}
    for name, tensor in state.items():
        _check_storable(name, tensor)
        owner = owners.setdefault(_identity(tensor) if tensor.numel() else name, name)
        if owner != name:
            table[name] = {"same_as": owner}
            continue
        table[name], frames = _encode(name, tensor, _VALUES[values])
        if frames:
            packed[name] = frames
    _write(path, state, table, packed)


def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read what ``save_sparse`` wrote: an ordinary state dict of contiguous CPU tensors, bit for bit.

    Nothing is unpickled, every checksum is verified, and each size is checked against the bytes that back it before
    memory is asked for: the dense tensors, and under 100 MB of working space.

    Raises CorruptFileError, in one line that names the file, if it is truncated, altered, newer than this version
    reads, or another kind of file; FileNotFoundError if it is missing.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     save_sparse(torch.nn.Linear(4, 2), path)
    ...     assert list(load_sparse(path)) == ["weight", "bias"]
    """
    # safe_open does not name a folder or a missing file in the ordinary way; open does.
    with open(path, "rb") as file:
        try:
            # What safetensors finds wrong is refused; the bytes come from our own view of the file, which costs less.
            with safe_open(os.fspath(path), framework="np") as checked:
                table = _table(checked.metadata() or {})
            return _read(memoryview(mmap(file.fileno(), 0, access=ACCESS_READ)), table)
        except (SafetensorError, ValueError, RecursionError) as error:
            raise CorruptFileError(f"{os.fspath(path)}: {' '.join(str(error).split())}") from error


def _check_storable(name: str, tensor: Tensor) -> None:
    if not isinstance(name, str) or name == "__metadata__" or name.encode(errors="ignore").decode() != name:
        raise ValueError(f"invalid tensor name: {name!r}")
    if not isinstance(tensor, Tensor):
        raise TypeError(f"cannot store {name!r}: {type(tensor).__name__} is not a tensor")
    plain = tensor.layout is torch.strided and not tensor.is_meta
    if not plain or tensor.dtype not in _NAMES or tensor.ndim > _MOST_DIMENSIONS:
        kind = f"{tensor.dtype}, {tensor.layout}, {tensor.ndim} dimensions, on {tensor.device}"
        raise ValueError(f"cannot store tensor {name!r}: {kind}")


def _identity(tensor: Tensor) -> object:
    """Equal for two tensors that are one in memory."""
    bits = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), bits


def _flat(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """The elements in row-major order, their bytes seen as ``dtype``."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # Of one element or none the stride may be anything, which view() refuses.
    return plain.as_strided((plain.numel(),), (1,)).view(dtype).numpy()


def _raw(tensor: Tensor) -> memoryview:
    return _flat(tensor, torch.uint8).data


def _encode(name: str, tensor: Tensor, narrow: torch.dtype | None) -> tuple[dict[str, Any], bytes]:
    """The table's entry of a tensor, and its frames unless it is better stored as it is."""
    entry: dict[str, Any] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
    bits = _flat(tensor, _BITS[tensor.itemsize])
    if tensor.dtype not in _PLAIN and 4 * np.count_nonzero(bits) <= 3 * bits.size:
        short = tensor.ndim < 2 and tensor.numel() <= _LONGEST_EXACT_VECTOR
        stored = tensor.dtype if narrow is None or short or tensor.dtype not in _WIDE else narrow
        blocks, frames = pack(bits, lambda kept: _round(name, kept, tensor.dtype, stored))
        if len(frames) < bits.nbytes:
            return {**entry, "crc32": zlib.crc32(frames), "values": _NAMES[stored], "blocks": blocks}, frames
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
    table: dict[str, dict[str, Any]],
    packed: dict[str, bytes],
) -> None:
    text = json.dumps(table, separators=(",", ":"))
    about = {"format": _FORMAT, "version": _VERSION, "tensors": text, "checksum": f"{zlib.crc32(text.encode()):08x}"}
    header: dict[str, Any] = {"__metadata__": about}
    # The widest first and the frames last: then each tensor begins at a multiple of its element size.
    names = [name for name in table if "same_as" not in table[name]]
    names.sort(key=lambda name: 0 if name in packed else -state[name].itemsize)
    end = 0
    for name in names:
        size = len(packed[name]) if name in packed else state[name].nbytes
        dtype, shape = ("U8", [size]) if name in packed else (table[name]["dtype"], table[name]["shape"])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + size]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(packed[name] if name in packed else _raw(state[name]))


def _read(file: memoryview, table: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """The state dict of a file that safetensors accepts."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(bytes(file[8:start]))
    if header.keys() - {"__metadata__"} != {name for name, entry in table.items() if "same_as" not in entry}:
        raise ValueError("the table of tensors does not list what the file holds")
    state: dict[str, Tensor] = {}
    workspace = Workspace()
    for name, entry in table.items():
        try:
            owner = entry.get("same_as")
            if owner is not None and owner not in state:
                raise ValueError(f"is the same as {owner!r}, which does not come before it")
            state[name] = _decode(file[start:], header[name], entry, workspace) if owner is None else state[owner]
        except (ValueError, ZstdError) as error:
            raise ValueError(f"tensor {name!r}: {error}") from error
    return state


def _table(about: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the file says of each tensor, every field of the right type."""
    if about.get("format") != _FORMAT:
        raise ValueError("not a sparse checkpoint")
    if about.get("version") != _VERSION:
        raise ValueError(f"format version {about.get('version')!r} (this package reads {_VERSION!r})")
    text = about.get("tensors", "")
    if f"{zlib.crc32(text.encode()):08x}" != about.get("checksum"):
        raise ValueError("the table of tensors does not match its checksum")
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("the table of tensors is no table")
    for name, entry in table.items():
        if not _is_entry(entry):
            raise ValueError(f"tensor {name!r}: its entry in the table is malformed")
    return table


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if "same_as" in entry:
        return isinstance(entry["same_as"], str)
    dtypes, shape, blocks = (entry.get("dtype"), entry.get("values", "U8")), entry.get("shape"), entry.get("blocks", [])
    return (
        all(isinstance(dtype, str) and dtype in _DTYPES for dtype in dtypes)
        and _are_counts([entry.get("crc32")])
        and _are_counts(shape, _MOST_DIMENSIONS)
        and isinstance(blocks, list)
        and all(map(_are_counts, blocks))
    )


def _are_counts(counts: Any, most: int = 16) -> bool:
    return isinstance(counts, list) and len(counts) <= most and all(type(n) is int and 0 <= n < 2**63 for n in counts)


def _decode(data: memoryview, held: dict[str, Any], entry: dict[str, Any], workspace: Workspace) -> Tensor:
    sparse = "blocks" in entry
    kind = held["dtype"], held["shape"]
    wanted = ("U8", kind[1]) if sparse else (entry["dtype"], entry["shape"])
    if kind != wanted:
        raise ValueError(f"is {kind} in the file (must be {wanted})")
    raw = data[slice(*held["data_offsets"])]
    if zlib.crc32(raw) != entry["crc32"]:
        raise ValueError("does not match its checksum")
    if sparse:
        return _from_frames(raw, entry, workspace)
    tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
    # A copy lets the file be replaced or removed.
    _flat(tensor, torch.uint8)[:] = np.frombuffer(raw, np.uint8)
    return tensor


def _from_frames(raw: memoryview, entry: dict[str, Any], workspace: Workspace) -> Tensor:
    dtype, stored, shape = _DTYPES[entry["dtype"]], _DTYPES[entry.get("values", "U8")], entry["shape"]
    if dtype in _PLAIN or not (stored == dtype or (dtype in _WIDE and stored in _VALUES.values())):
        raise ValueError(f"cannot be {dtype} with values stored as {stored}")
    blocks = unpack(raw, entry["blocks"], math.prod(shape), stored.itemsize, workspace)
    # Left to the system, zeros take no memory until a nonzero lands among them.
    dense = np.zeros(shape, f"i{dtype.itemsize}")
    flat, bits = dense.reshape(-1), _BITS[dtype.itemsize]
    for place, positions, values in blocks:
        flat[place][positions] = torch.from_numpy(values).view(stored).to(dtype).view(bits).numpy()
    return torch.from_numpy(dense).view(dtype)
