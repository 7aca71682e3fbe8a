"""The files in which the authors of CIFAR publish it: pickles for Python or plain bytes, in an archive or beside it."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import CorruptFileError

__all__ = ["read_archive"]

_PIXELS = 3 * 32 * 32


def read_archive(path: Path, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Images ``(n, 3, 32, 32)`` uint8 and labels ``(n,)`` int64 for training, then for testing; None if not there.

    Args:
        path: a ``.tar.gz`` or a folder, of the version for Python or the binary one.
        classes: 10 or 100, which decides the files' names.

    Raises:
        CorruptFileError: for a file that is truncated or not what it should be.
    """
    names = _names(path)
    for ending, read in ((".bin", _read_binary), ("", _read_pickle)):
        if classes == 10:
            train = sorted(n for n in names if n.startswith("data_batch_") and n[11:].removesuffix(ending).isdecimal())
            test = "test_batch" + ending
        else:
            train, test = [n for n in names if n == "train" + ending], "test" + ending
        if train and test in names:
            contents = _contents(path, [*train, test])
            parts = [read(contents[name], f"{path / name}", classes) for name in (*train, test)]
            images, labels = (torch.cat([part[i] for part in parts[:-1]]) for i in (0, 1))
            return images, labels, *parts[-1]
    return None


def _names(path: Path) -> list[str]:
    """The plain names of the files of a folder or an archive."""
    if path.is_dir():
        return [entry.name for entry in path.iterdir() if entry.is_file()]
    return _through(path, lambda archive: [Path(member.name).name for member in archive if member.isfile()])


def _contents(path: Path, names: list[str]) -> dict[str, bytes]:
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names}

    def read(archive: tarfile.TarFile) -> dict[str, bytes]:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        opened = ((name, archive.extractfile(members[name])) for name in names)
        return {name: file.read() for name, file in opened if file is not None}

    return _through(path, read)


def _through(path: Path, read: Callable[[tarfile.TarFile], Any]) -> Any:
    try:
        with tarfile.open(path) as archive:
            return read(archive)
    except FileNotFoundError:
        raise
    # What zlib, gzip and tarfile raise for a damaged file has no common class.
    except Exception as error:
        raise CorruptFileError(f"{path} is not a readable archive") from error


def _read_binary(content: bytes, name: str, classes: int) -> tuple[Tensor, Tensor]:
    """Records of one label byte, of CIFAR-100 two (the second is the fine one), and the pixels by channel."""
    head = 1 if classes == 10 else 2
    if not content or len(content) % (head + _PIXELS):
        raise CorruptFileError(f"{name} is truncated: {len(content)} bytes are no records of {head + _PIXELS}")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, head + _PIXELS)
    return records[:, head:].reshape(-1, 3, 32, 32), records[:, head - 1].long()


def _read_pickle(content: bytes, name: str, classes: int) -> tuple[Tensor, Tensor]:
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
        labels = torch.tensor(batch["labels" if classes == 10 else "fine_labels"], dtype=torch.int64)
        images = torch.frombuffer(bytearray(batch["data"].content), dtype=torch.uint8).view(-1, 3, 32, 32)
        if batch["data"].dtype.name != b"u1" or labels.shape != images.shape[:1]:
            raise ValueError("not as many labels as images of bytes")
    # Bytes that are no pickle, or another one, can raise anything.
    except Exception as error:
        raise CorruptFileError(f"{name} is not a readable batch of CIFAR-{classes}: {_brief(error)}") from error
    return images, labels


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__


class _Unpickler(pickle.Unpickler):
    """Builds lists, dictionaries and arrays of bytes. No function that a file names is called: these stand in."""

    def find_class(self, module: str, name: str) -> Any:
        place = (module.replace("numpy._core", "numpy.core"), name)
        if place not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _STAND_INS[place]


class _Dtype:
    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.encode() if isinstance(name, str) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which single bytes do not have."""


class _Array:
    content: bytes | bytearray = b""
    dtype: _Dtype

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, self.dtype, columns_first, content = state
        self._fill(content, columns_first)

    def _fill(self, content: Any, columns_first: bool) -> None:
        if columns_first or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("it holds no rows of bytes")
        self.content = content


def _from_buffer(content: Any, dtype: _Dtype, _shape: Any, order: str) -> _Array:
    array = _Array()
    array.dtype = dtype
    array._fill(content, order != "C")
    return array


def _encode(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocols before 3
}
