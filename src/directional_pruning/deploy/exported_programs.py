"""Read the weights from a file of ``torch.export.save`` without loading its program."""

import json
import math
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from ..files import CorruptFileError

__all__ = ["is_exported_program", "read_exported_program"]

# Both lists of tensors; what the program calls constants are tensors that are neither parameters nor buffers.
_LISTS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
# The numbers of dtypes in torch's schema of exported programs.
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 10: torch.complex64, 12: torch.bool, 13: torch.bfloat16, 28: torch.uint16,
    29: torch.float8_e4m3fn, 30: torch.float8_e5m2, 34: torch.uint32, 35: torch.uint64,
}  # fmt: skip


def is_exported_program(path: Path) -> bool:
    """Whether a file is an archive of ``torch.export.save``."""
    try:
        with ZipFile(path) as archive:
            return any(name.endswith(_LISTS[0]) for name in archive.namelist())
    except (BadZipFile, OSError):
        return False


def read_exported_program(path: Path) -> dict[str, Tensor]:
    """The parameters, buffers and constants of an exported program; nothing in the file is executed.

    Raises CorruptFileError for a file that is altered, or that holds pickled tensors.
    """
    state: dict[str, Tensor] = {}
    files: dict[str, bytearray] = {}
    try:
        with ZipFile(path) as archive:
            if any(entry.file_size > path.stat().st_size for entry in archive.infolist()):
                raise ValueError("an entry is larger than the file")
            for kind in _LISTS:
                for listed in [name for name in archive.namelist() if name.endswith(kind)]:
                    folder = listed.rpartition("/")[0]
                    for name, entry in json.loads(archive.read(listed))["config"].items():
                        file = f"{folder}/{entry['path_name']}"
                        if file not in files:
                            files[file] = bytearray(archive.read(file))  # tests its checksum
                        if tensor := _tensor(name, entry, files[file], kind):
                            state[name] = tensor[0]
    except (BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CorruptFileError(f"{path} is not a readable exported program ({reason[:150]})") from error
    return state


def _tensor(name: str, entry: dict[str, Any], raw: bytearray, kind: str) -> tuple[Tensor] | None:
    """The tensor of an entry; None for a constant that is no tensor."""
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta is None:
        if kind == _LISTS[0]:
            raise ValueError(
                f"{name!r} is pickled, as tensors of other classes are: call dequantize() before exporting"
            )
        return None
    dtype = _DTYPES[meta["dtype"]]
    sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    if not math.prod(sizes):
        return (torch.empty(sizes, dtype=dtype),)
    if math.prod(sizes) * dtype.itemsize > len(raw):
        raise ValueError(f"{name!r} has {len(raw)} bytes, too few for its shape {sizes}")
    # Tied tensors have one file, and share the memory that was read from it.
    return (torch.frombuffer(raw, dtype=dtype).as_strided(sizes, strides, meta["storage_offset"]["as_int"]),)
