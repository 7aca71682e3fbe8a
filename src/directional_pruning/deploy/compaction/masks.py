"""Which channels of a tensor are constant, which are needed, which stay; masks that broadcast to the tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Units:
    """What is known of one tensor of the graph. The masks have its number of dimensions.

    A dimension of size 1 where the tensor has more is one in which all elements fare alike (batch, tokens, pixels);
    the other dimensions hold the units that can be removed: channels, or heads and what is inside of them.
    """

    shape: tuple[int, ...]
    """Shape of the tensor in the example run."""
    known: Tensor
    """Elements that have one value whatever the input, at every size of the free dimensions."""
    value: Tensor
    """That value, float64; 0 where it is not known."""

    def __post_init__(self) -> None:
        self.value = torch.where(self.known, self.value, 0.0)
        # Elements that are not known and that the outputs depend on.
        self.need = torch.zeros_like(self.known)
        # Elements the smaller network computes. Kept and known: exactly the value. Kept, unknown, not needed: anything.
        self.keep = torch.zeros_like(self.known)

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Units":
        """A tensor no part of which can be removed, and of which nothing is known."""
        ones = [1] * len(shape)
        return cls(tuple(shape), torch.zeros(ones, dtype=torch.bool), torch.zeros(ones, dtype=torch.float64))

    def require(self, mask: Tensor) -> None:
        """Ask for the elements in a mask of the same or a broadcast shape; the known ones can be had without."""
        self.need |= reduce_any(mask, self.need.shape) & ~self.known
        self.keep |= self.need

    def free(self, dim: int) -> bool:
        """Whether all elements along the dimension fare alike, so that it can be summed or averaged over."""
        return self.known.shape[dim] == 1

    def rigid(self, shape: Sequence[int]) -> bool:
        """Whether a tensor with masks of ``shape`` can be sliced where this one cannot."""
        pairs = list(zip(self.shape[::-1], self.known.shape[::-1], shape[::-1]))
        return any(real > 1 and own == 1 and other > 1 for real, own, other in pairs)

    @property
    def sliced(self) -> bool:
        """Whether something of it is to be removed."""
        return not bool(self.keep.all())

    def kept_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the smaller network, free dimensions as in the example run."""
        sizes = positions(self.keep).shape
        return tuple(real if own == 1 else kept for real, own, kept in zip(self.shape, self.keep.shape, sizes))


def reduce_any(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """``mask`` with the dimensions joined by "or" in which ``shape``, aligned at the right, has size 1 or none."""
    while mask.ndim > len(shape):
        mask = mask.any(0)
    for dim in range(-mask.ndim, 0):
        if shape[dim] == 1:
            mask = mask.any(dim, keepdim=True)
    return mask.expand(tuple(shape))


def tie(masks: Sequence[Tensor], inner: bool = False) -> None:
    """Make masks agree, in place, in the dimensions they share: a row kept in one is kept in all.

    Shared are the dimensions, aligned at the right, in which each has more than size 1; not the last one if ``inner``.
    Where a mask has nothing in a row that it must keep, the first element of that row is taken.
    """
    ndim = max(mask.ndim for mask in masks)
    wide = [mask[(None,) * (ndim - mask.ndim)] for mask in masks]
    shape = [min(sizes) for sizes in zip(*(mask.shape for mask in wide))]
    if inner:
        shape[-1] = 1
    rows = torch.stack([reduce_any(mask, shape) for mask in wide]).any(0)
    for mask in wide:
        missing = rows & ~reduce_any(mask, shape)
        first = torch.ones_like(mask)
        for dim, size in enumerate(shape):
            if size == 1:
                first[(slice(None),) * dim + (slice(1, None),)] = False
        mask |= missing & first


def rectangle(keep: Tensor) -> Tensor:
    """``keep`` with elements added so that it can be stored as a tensor: every row that is kept has equally many."""
    if keep.ndim == 0:
        return torch.ones_like(keep)
    rows = rectangle(keep.any(-1))
    count = keep.sum(-1, keepdim=True)
    most = count[rows].max().clamp(min=1)
    added = ~keep & ((~keep).cumsum(-1) <= most - count)
    return (keep | added) & rows.unsqueeze(-1)


def positions(keep: Tensor) -> Tensor:
    """Flat positions of the elements of a rectangular mask, in the shape they are stored in."""
    sizes, mask = [], keep
    while mask.ndim:
        sizes.append(int(mask.sum(-1).max()))
        mask = mask.any(-1)
    return torch.arange(keep.numel())[keep.reshape(-1)].reshape(sizes[::-1])
