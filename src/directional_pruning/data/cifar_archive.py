"""Read CIFAR as its authors publish it: pickles for Python or binary records, in an archive or a folder."""

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
    """Training images ``(n, 3, 32, 32)`` uint8 and labels ``(n,)`` int64, then test images and labels.

    Returns None if the files are not there.

    Args:
        path: a ``.tar.gz`` or a folder, of the version for Python or of the binary version.
        classes: 10 or 100; the names of the files depend on it.

    Raises:
        CorruptFileError: for a file that is truncated or has another format.
    """
    names = _file_names(path)
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


def _file_names(path: Path) -> list[str]:
    """Names of the files in a folder or an archive, without their folders."""
    if path.is_dir():
        return [entry.name for entry in path.iterdir() if entry.is_file()]
    return _read_tar(path, lambda archive: [Path(member.name).name for member in archive if member.isfile()])


def _contents(path: Path, names: list[str]) -> dict[str, bytes]:
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names}

    def read(archive: tarfile.TarFile) -> dict[str, bytes]:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        opened = ((name, archive.extractfile(members[name])) for name in names)
        return {name: file.read() for name, file in opened if file is not None}

    return _read_tar(path, read)


def _read_tar(path: Path, read: Callable[[tarfile.TarFile], Any]) -> Any:
    try:
        with tarfile.open(path) as archive:
            return read(archive)
    except FileNotFoundError:
        raise
    # For a damaged file zlib, gzip and tarfile raise errors that have no common base class.
    except Exception as error:
        raise CorruptFileError(f"{path} is not a readable archive") from error


def _read_binary(content: bytes, name: str, classes: int) -> tuple[Tensor, Tensor]:
    """Records of label and pixels by channel; CIFAR-100 has two label bytes, of which the second is the fine label."""
    label_bytes = 1 if classes == 10 else 2
    record = label_bytes + _PIXELS
    if not content or len(content) % record:
        raise CorruptFileError(f"{name} is truncated: {len(content)} bytes are not a multiple of {record}")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, record)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].long()


def _read_pickle(content: bytes, name: str, classes: int) -> tuple[Tensor, Tensor]:
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in loaded.items()}
        labels = torch.tensor(batch["labels" if classes == 10 else "fine_labels"], dtype=torch.int64)
        images = torch.frombuffer(bytearray(batch["data"].content), dtype=torch.uint8).view(-1, 3, 32, 32)
        if batch["data"].dtype.name != b"u1" or labels.shape != images.shape[:1]:
            raise ValueError("not as many labels as images of bytes")
    # Loading bytes that are not such a pickle can raise any error.
    except Exception as error:
        raise CorruptFileError(f"{name} is not a readable batch of CIFAR-{classes}: {_first_words(error)}") from error
    return images, labels


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__


class _Unpickler(pickle.Unpickler):
    """Load lists, dictionaries and arrays of bytes. A file can call nothing but the functions in ``_REPLACEMENTS``."""

    def find_class(self, module: str, name: str) -> Any:
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _REPLACEMENTS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _REPLACEMENTS[key]


class _Dtype:
    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.encode() if isinstance(name, str) else name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment: the elements are single bytes."""


class _Array:
    content: bytes | bytearray = b""
    dtype: _Dtype

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, self.dtype, column_major, content = state
        self._fill(content, column_major)

    def _fill(self, content: Any, column_major: bool) -> None:
        if column_major or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("its array is not row-major bytes")
        self.content = content


def _from_buffer(content: Any, dtype: _Dtype, _shape: Any, order: str) -> _Array:
    array = _Array()
    array.dtype = dtype
    array._fill(content, order != "C")
    return array


def _encode(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_REPLACEMENTS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,  # Python 3 writes bytes this way in protocols 0 to 2
}
