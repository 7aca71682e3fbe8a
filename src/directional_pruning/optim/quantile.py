"""The magnitude below which a wanted share of many tensors' elements lies, found by counting.

The bits of a float32 magnitude, read as an integer, have the order of the magnitudes. One pass counts them in 2,048
equal bins, the next inside of the bin that holds the threshold. The counts of shards are added up before that bin is
chosen. So every process finds the same threshold, nothing is sorted, and no number of elements is too large.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels

__all__ = ["Magnitudes", "magnitude_at"]

BINS = 2048
# The first bin and the logarithm of the bins' width: over all magnitudes, and then twice inside of one bin.
_PASSES = (20, 9, 0)
_WINDOW = 8  # the same of bins around the previous threshold, 3 % to each side
_PRECISION = 1e-5  # of all elements: a bin that has no more is not divided further
_CHUNK = 2**22  # elements that torch's operations count at a time, with 8 bytes for each


class Magnitudes(NamedTuple):
    """Tensors whose elements count alike."""

    tensors: Sequence[Tensor]
    cost: float = 1.0
    """What one element counts."""
    add_up: Callable[[Tensor], None] | None = None
    """Adds up counts over the processes that hold shards of these tensors, in place; None where this one holds all."""


def magnitude_at(share: float, parts: Sequence[Magnitudes], *, near: float = 0.0) -> float:
    """The smallest g for which the elements with ``|v| <= g`` have this share of the cost of all.

    It is exact to one element, or to 1e-5 of the cost. Not-a-number counts as larger than everything.

    Args:
        share: from 0 to below 1.
        parts: all elements; those on a device are counted there, and the host waits for the counts.
        near: where g is expected, such as at the last threshold; then one pass over memory is enough.

    >>> v = torch.tensor([3.0, -1.0, 2.0, -4.0])
    >>> magnitude_at(0.5, [Magnitudes([v])]), magnitude_at(0.75, [Magnitudes([v])], near=2.9)
    (2.0, 3.0)
    """
    low, shift = (max(_bits(near) - (BINS << _WINDOW - 1), 0), _WINDOW) if near > 0 else (0, _PASSES[0])
    while True:
        counts = count_all(parts, low, shift)
        below, wanted = counts.cumsum(0).tolist(), share * float(counts.sum())
        if wanted <= 0:
            return 0.0
        bin_ = next(i for i, sum_ in enumerate(below) if sum_ >= wanted or i > BINS)
        if not 0 < bin_ <= BINS:  # outside of the window
            low, shift = 0, _PASSES[0]
            continue
        low += (bin_ - 1) << shift
        if shift == 0 or below[bin_] - below[bin_ - 1] <= _PRECISION * below[-1]:
            # All of this bin, or none where that is nearer.
            none = below[bin_ - 1] > 0 and wanted - below[bin_ - 1] < below[bin_] - wanted
            return _float(low - 1 if none else low + (1 << shift) - 1)
        shift = max(shift - 11, 0)


def magnitude_at_on_device(share: Tensor, parts: Sequence[Magnitudes]) -> Tensor:
    """:func:`magnitude_at` for tensors on one device, in three passes, without the host waiting for a number."""
    low = torch.zeros((), dtype=torch.int64, device=share.device)
    for shift in _PASSES:
        below = count_all(parts, low, shift).cumsum(0)
        bin_ = (below < share * below[-1]).sum().clamp(1, BINS)
        low = low + (bin_ - 1 << shift)
    return low.to(torch.int32).view(torch.float32)


def count_all(parts: Sequence[Magnitudes], low: int | Tensor, shift: int) -> Tensor:
    """The cost of what is below, inside and above ``BINS`` bins; float64, of shape (BINS + 2,), as of all processes."""
    costs = []
    for tensors, cost, add_up in parts:
        counts = count(tensors, low, shift)
        if add_up is not None:
            add_up(counts)
        costs.append(counts.to(torch.float64) * cost)
    return torch.stack(costs).sum(0)


def count(tensors: Sequence[Tensor], low: int | Tensor, shift: int) -> Tensor:
    """How many magnitudes are below, inside and above bins of width ``2**shift`` from ``low`` on; int64."""
    if isinstance(low, int) and (counts := kernels.histogram(tensors, low, shift)) is not None:
        return counts
    counts = torch.zeros(BINS + 2, dtype=torch.int64, device=tensors[0].device)
    for v in tensors:
        for part in v.detach().reshape(-1).split(_CHUNK):
            bits = part.to(torch.float32).abs().view(torch.int32).to(torch.int64)
            bins = ((bits - low) >> shift).clamp_(-1, BINS).add_(1)
            bins = bins.to(counts.device)  # parts of a network may lie on several devices
            counts.scatter_add_(0, bins, torch.ones_like(bins))
    return counts


def _bits(x: float) -> int:
    return struct.unpack("<i", struct.pack("<f", min(x, 3e38)))[0]


def _float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<i", max(bits, 0)))[0] if bits < 0x7F800000 else math.inf
