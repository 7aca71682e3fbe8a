"""The table of tensors in a sparse file: its constants, what can be stored, and how it is checked when read."""

import json
import zlib
from typing import Any

import torch
from torch import Tensor

from ..tensors import obstacle

FORMAT, VERSION = "directional-pruning-sparse", "1"
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Always stored dense.
DENSE_DTYPES = (torch.bool, torch.complex64)
# The dtypes that can be rounded on saving, and what they can be rounded to.
WIDE_DTYPES = (torch.float32, torch.float64)
ROUNDED_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST_DIMENSIONS = 64

Table = dict[str, dict[str, Any]]
# The path of each module -> the metadata that its state dict carries, mostly {"version": 1}.
Modules = dict[str, dict[str, Any]]


def check_storable(name: str, tensor: Tensor) -> None:
    """Raise ValueError or TypeError, with the name, for an entry of a state dict that the format does not cover."""
    if not isinstance(name, str) or name == "__metadata__" or name.encode(errors="ignore").decode() != name:
        raise ValueError(f"invalid tensor name: {name!r}")
    if not isinstance(tensor, Tensor):
        raise TypeError(f"cannot store {name!r}: {type(tensor).__name__} is not a tensor")
    if reason := obstacle(tensor):
        raise ValueError(f"cannot store tensor {name!r}: {reason}")
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPE_NAMES or tensor.ndim > _MOST_DIMENSIONS:
        description = f"{tensor.dtype}, {tensor.layout}, {tensor.ndim} dimensions, on {tensor.device}"
        raise ValueError(f"cannot store tensor {name!r}: {description}")


def to_metadata(table: Table, modules: Modules | None) -> dict[str, str]:
    """The metadata of a file with this table, and with the metadata of the modules if the state dict has some."""
    text = json.dumps(table, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": VERSION, "tensors": text, "checksum": _checksum(text)}
    if modules is not None:
        text = json.dumps(modules, separators=(",", ":"))
        metadata |= {"modules": text, "modules_checksum": _checksum(text)}
    return metadata


def from_metadata(metadata: dict[str, str]) -> tuple[Table, Modules | None]:
    """What :func:`to_metadata` put there, with every field of the right type; raises ValueError otherwise."""
    if metadata.get("format") != FORMAT:
        raise ValueError("not a sparse checkpoint")
    if metadata.get("version") != VERSION:
        raise ValueError(f"format version {metadata.get('version')!r} (this package reads {VERSION!r})")
    table = _checked(metadata, "tensors", "checksum")
    for name, entry in table.items():
        if not _is_entry(entry):
            raise ValueError(f"tensor {name!r}: its entry in the table is malformed")
    if not metadata.keys() & {"modules", "modules_checksum"}:  # as in files of the first writers
        return table, None
    modules = _checked(metadata, "modules", "modules_checksum")
    if not all(isinstance(entry, dict) for entry in modules.values()):
        raise ValueError("the table of modules is malformed")
    return table, modules


def _checked(metadata: dict[str, str], key: str, checksum: str) -> dict[str, Any]:
    text = metadata.get(key, "")
    if _checksum(text) != metadata.get(checksum):
        raise ValueError(f"the table of {key} does not match its checksum")
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError(f"the table of {key} is no table")
    return table


def modules_of(state: Any) -> Modules | None:
    """The metadata of modules (their versions) that a state dict carries, None if it carries none.

    Raises ValueError, with the module, for metadata that JSON cannot hold.
    """
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        return None
    for module, entry in metadata.items():
        try:
            kept = isinstance(module, str) and json.loads(json.dumps(entry)) == entry
        except (TypeError, ValueError):
            kept = False
        if not kept:
            raise ValueError(f"cannot store the metadata of module {module!r}: {entry!r} is not JSON")
    return dict(metadata)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if "same_as" in entry:
        return isinstance(entry["same_as"], str)
    dtypes, shape, blocks = (entry.get("dtype"), entry.get("values", "U8")), entry.get("shape"), entry.get("blocks", [])
    return (
        all(isinstance(dtype, str) and dtype in DTYPES for dtype in dtypes)
        and _are_counts([entry.get("crc32")])
        and _are_counts(shape, _MOST_DIMENSIONS)
        and isinstance(blocks, list)
        and all(map(_are_counts, blocks))
    )


def _are_counts(counts: Any, most: int = 16) -> bool:
    return isinstance(counts, list) and len(counts) <= most and all(type(n) is int and 0 <= n < 2**63 for n in counts)
