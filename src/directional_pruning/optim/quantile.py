"""The magnitude below which a wanted share of many tensors' elements lies, found by counting.

The bits of a float32 magnitude, read as an integer, have the order of the magnitudes. One pass counts them in 2,048
equal bins, the next inside of the bin that holds the threshold. The counts of shards are added up before that bin is
chosen. So every process finds the same threshold, nothing is sorted, and no number of elements is too large.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels

__all__ = ["MOST", "Magnitudes", "magnitude_at", "magnitude_at_on_device"]

BINS = 2048
# The first bin and the logarithm of the bins' width: over all magnitudes, and then twice inside of one bin.
_PASSES = (20, 9, 0)
# The same of bins around the previous threshold: 0.1 % and 3 % to each side.
_NARROW, _WIDE = 3, 8
_PRECISION = 1e-5  # of all elements: a bin that has no more is not divided further
MOST = torch.finfo(torch.float32).max
"""The largest answer: it is finite, so that no infinity becomes a zero."""
_BITS_OF_MOST = 0x7F7FFFFF
_CHUNK = 2**22  # elements that torch's operations count at a time, with 8 bytes for each


class Magnitudes(NamedTuple):
    """Tensors whose elements count alike."""

    tensors: Sequence[Tensor]
    cost: float = 1.0
    """What one element counts."""
    add_up: Callable[[Tensor], None] | None = None
    """Adds up counts over the processes that hold shards of these tensors, in place; None where this one holds all."""


class Found(NamedTuple):
    """A magnitude, and what lies up to it."""

    g: float
    share: float
    """The share of the cost of the elements with ``|v| <= g``."""


def magnitude_at(share: float, parts: Sequence[Magnitudes], *, near: float = 0.0, tolerance: float = 0.0) -> Found:
    """The smallest g for which the elements with ``|v| <= g`` have this share of the cost of all.

    It is exact to one element, or to 1e-5 of the cost. Not-a-number counts as larger than everything.

    Args:
        share: from 0 to below 1.
        parts: all elements; those on a device are counted there, and the host waits for the counts.
        near: where g is expected, such as at the last threshold; then one pass over memory is enough.
        tolerance: ``near`` is the answer where its own share differs by no more.

    >>> v = torch.tensor([3.0, -1.0, 2.0, -4.0])
    >>> magnitude_at(0.5, [Magnitudes([v])]).g, magnitude_at(0.75, [Magnitudes([v])], near=2.9)
    (2.0, Found(g=3.0, share=0.75))
    """
    low, shift, is_inside = 0, _PASSES[0], True  # is_inside: the bins are sure to hold the answer
    if near > 0:
        shift = _NARROW if tolerance else _WIDE
        low, is_inside = _around(near, shift), False
    while True:
        below = count_all(parts, low, shift).cumsum(0).tolist()
        wanted = share * below[-1]
        if wanted <= 0:
            return Found(0.0, 0.0)
        if tolerance and 0 < low == _around(near, shift) and near < MOST:
            middle = below[BINS // 2]  # up to and with near
            if abs(middle - wanted) <= tolerance * below[-1]:
                return Found(near, middle / below[-1])
        bin_ = next(i for i, sum_ in enumerate(below) if sum_ >= wanted or i > BINS)
        if not is_inside and not 0 < bin_ <= BINS:
            low, shift, is_inside = (_around(near, _WIDE), _WIDE, False) if shift == _NARROW else (0, _PASSES[0], True)
            continue
        bin_ = min(max(bin_, 1), BINS)  # sums of costs are rounded
        low, is_inside = low + ((bin_ - 1) << shift), True
        if shift == 0 or below[bin_] - below[bin_ - 1] <= _PRECISION * below[-1]:
            # All of this bin, or none where that is nearer.
            none = below[bin_ - 1] > 0 and wanted - below[bin_ - 1] < below[bin_] - wanted
            g = _float(low - 1 if none else low + (1 << shift) - 1)
            return Found(g, below[bin_ - 1 if none else bin_] / below[-1])
        shift = max(shift - 11, 0)


def magnitude_at_on_device(share: Tensor, parts: Sequence[Magnitudes]) -> Tensor:
    """:func:`magnitude_at` for tensors on one device, in three passes, without the host waiting for a number."""
    low = torch.zeros((), dtype=torch.int64, device=share.device)
    for shift in _PASSES:
        below = count_all(parts, low, shift).cumsum(0)
        bin_ = (below < share * below[-1]).sum().clamp(1, BINS)
        low = low + (bin_ - 1 << shift)
    return low.clamp(max=_BITS_OF_MOST).to(torch.int32).view(torch.float32)


def count_all(parts: Sequence[Magnitudes], low: int | Tensor, shift: int) -> Tensor:
    """The cost of what is below, inside and above ``BINS`` bins; float64, of shape (BINS + 2,), as of all processes."""
    costs = []
    for tensors, cost, add_up in parts:
        counts = count(tensors, low, shift)
        if add_up is not None:
            add_up(counts)
        costs.append(counts.to(costs[0].device if costs else counts.device, torch.float64) * cost)
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


def _around(near: float, shift: int) -> int:
    """Where bins begin, so that a half of them ends with this magnitude, if it is not tiny."""
    return max(_bits(near) + 1 - (BINS // 2 << shift), 0)


def _bits(x: float) -> int:
    return struct.unpack("<i", struct.pack("<f", min(x, MOST)))[0]


def _float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<i", min(max(bits, 0), _BITS_OF_MOST)))[0]
