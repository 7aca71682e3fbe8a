"""Measure how many bytes a network takes: dense, zipped and as a sparse file, and the theoretical limit."""

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..tensors import count_nonzeros
from .sparse_file import load_sparse, write_sparse

__all__ = ["FileSize", "file_size"]

_CHUNK = 2**20


@dataclass(frozen=True)
class FileSize:
    """Bytes of the tensors of a state dict, tied ones once, and of its sparse file."""

    values: str
    """The dtype of the nonzeros in the sparse file; float32 is lossless."""
    total: int
    """Number of elements of all tensors, buffers included."""
    nonzeros: int
    """Number of elements that are not zero in the sparse file."""
    dense_bytes: int
    zipped_bytes: int
    """The dense bytes compressed by deflate, as in a .zip file."""
    sparse_bytes: int
    least_bytes: float
    """The bytes of an ideal code, if zeros are at random positions and the bytes of a value are independent."""

    @property
    def bits_per_nonzero(self) -> float:
        """Bits of the sparse file, header and dense tensors included, for each nonzero; NaN if everything is zero."""
        return 8 * self.sparse_bytes / self.nonzeros if self.nonzeros else math.nan

    @property
    def least_bits_per_nonzero(self) -> float:
        """The limit of :attr:`bits_per_nonzero`."""
        return 8 * self.least_bytes / self.nonzeros if self.nonzeros else math.nan


def file_size(state: Mapping[str, Tensor], *, values: str = "float32") -> FileSize:
    """Measure how many bytes a state dict takes: dense, zipped, and in a file of ``save_sparse``.

    The limit for a tensor of n elements, a fraction s of them zero, is the entropy of the mask and of the values,

        n H(s) + (1 - s) n sum_k H_k,    H(s) = -s log2(s) - (1 - s) log2(1 - s) bits,

    with H_k the entropy of the k-th byte of the nonzeros in this tensor; or all bits of the tensor if those are fewer.
    A file can be smaller only if the zeros have a pattern or the bytes of a value depend on each other.

    Raises and warns as :func:`save_sparse`.

    >>> weight = torch.zeros(256, 256)
    >>> weight[:, ::16] = 1.0
    >>> size = file_size({"weight": weight})
    >>> size.dense_bytes, size.nonzeros, size.sparse_bytes < 2000, round(8 * size.least_bytes)
    (262144, 4096, True, 22105)
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.sparse.safetensors")
        if hidden := write_sparse(state, path, values=values):
            warnings.warn(f"file_size: {hidden}", stacklevel=2)
        # The limit is that of the file: rounded values have fewer bits, and some may have become zero.
        stored, sparse = list(_distinct(load_sparse(path))), path.stat().st_size
    return FileSize(
        values,
        sum(t.numel() for t in stored),
        sum(count_nonzeros("", t) for t in stored),
        sum(t.nbytes for t in stored),
        sum(map(_zipped, _distinct(state))),
        sparse,
        sum(map(_least_bits, stored)) / 8,
    )


def _distinct(state: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The tensors, tied ones once."""
    seen = set()
    for t in state.values():
        memory = (t.data_ptr(), t.shape, t.stride(), t.dtype) if t.numel() else object()
        if memory not in seen:
            seen.add(memory)
            yield t


def _bytes(t: Tensor) -> Tensor:
    """The bytes of the tensor, uint8, as (elements, bytes of each)."""
    flat = t.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).view(flat.numel(), flat.itemsize) if flat.numel() else torch.empty(0, 1).byte()


def _zipped(t: Tensor) -> int:
    deflate, size = zlib.compressobj(), 0
    for part in _bytes(t).split(_CHUNK):
        size += len(deflate.compress(part.numpy().data))
    return size + len(deflate.flush())


def _least_bits(t: Tensor) -> float:
    planes = _bytes(t)
    nonzero = planes.ne(0).any(1)
    counts = torch.stack([(~nonzero).sum(), nonzero.sum()])
    bits = _entropy(counts) + sum(_entropy(torch.bincount(plane.int(), minlength=256)) for plane in planes[nonzero].T)
    return min(bits, 8.0 * planes.numel())


def _entropy(counts: Tensor) -> float:
    """Bits of all the symbols that were counted, in the best code for their frequencies."""
    n = counts[counts > 0].double()
    return float((n * (n.sum() / n).log2()).sum())
