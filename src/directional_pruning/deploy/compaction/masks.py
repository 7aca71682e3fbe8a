"""Masks over the channels of a tensor: which are constant, which are needed, which remain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class ChannelMasks:
    """The masks of one tensor of the graph; each has as many dimensions as the tensor.

    A mask has size 1 in a broadcast dimension: there it holds for all positions (batch, tokens, pixels). The other
    dimensions hold the channels, which can be removed one by one: channels, or heads and the dimensions inside them.
    """

    shape: tuple[int, ...]
    """Shape of the tensor in the example run."""
    constant: Tensor
    """True where the element has one value whatever the input, at every size of the broadcast dimensions."""
    value: Tensor
    """That value, float64; 0 where the element is not constant."""

    def __post_init__(self) -> None:
        self.value = torch.where(self.constant, self.value, 0.0)
        # True where an output depends on the element and the element is not constant.
        self.needed = torch.zeros_like(self.constant)
        # True where the smaller network computes the element. A constant element then has its value; one that is
        # neither constant nor needed may have any value.
        self.remaining = torch.zeros_like(self.constant)

    @classmethod
    def without_channels(cls, shape: Sequence[int]) -> "ChannelMasks":
        """The masks of a tensor that stays whole: only broadcast dimensions, nothing constant."""
        ones = [1] * len(shape)
        return cls(tuple(shape), torch.zeros(ones, dtype=torch.bool), torch.zeros(ones, dtype=torch.float64))

    def mark_needed(self, mask: Tensor) -> None:
        """Add the elements of a mask of the same or a broadcast shape; constant ones are never needed."""
        self.needed |= any_to_size(mask, self.needed.shape) & ~self.constant
        self.remaining |= self.needed

    @property
    def zero(self) -> Tensor:
        """The constant elements whose value is 0."""
        return self.constant & (self.value == 0)

    def is_broadcast(self, dim: int) -> bool:
        """Whether the masks are constant along the dimension, so that it can be summed or averaged over."""
        return self.constant.shape[dim] == 1

    def prevents_slicing(self, shape: Sequence[int]) -> bool:
        """Whether this tensor stays whole in a dimension in which masks of ``shape`` have channels."""
        sizes = zip(self.shape[::-1], self.constant.shape[::-1], shape[::-1])
        return any(real > 1 and mask == 1 and other > 1 for real, mask, other in sizes)

    @property
    def shrinks(self) -> bool:
        """Whether some elements do not remain."""
        return not bool(self.remaining.all())

    def smaller_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the smaller network, broadcast dimensions as in the example run."""
        sizes = positions(self.remaining).shape
        return tuple(real if mask == 1 else size for real, mask, size in zip(self.shape, self.remaining.shape, sizes))


def any_to_size(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Reduce ``mask`` by "or" to a shape it broadcasts from, as ``Tensor.sum_to_size`` reduces by sum."""
    while mask.ndim > len(shape):
        mask = mask.any(0)
    for dim in range(-mask.ndim, 0):
        if shape[dim] == 1:
            mask = mask.any(dim, keepdim=True)
    return mask.expand(tuple(shape))


def align(masks: Sequence[Tensor], *, skip_last: bool = False) -> None:
    """Add elements to the masks, in place, until each has the same rows along the dimensions they share.

    Shared are the dimensions, aligned at the right, in which every mask has more than size 1; with ``skip_last`` not
    the last one. A mask that has no element in such a row gets the first one of it.
    """
    ndim = max(mask.ndim for mask in masks)
    views = [mask[(None,) * (ndim - mask.ndim)] for mask in masks]
    shape = [min(sizes) for sizes in zip(*(view.shape for view in views))]
    if skip_last:
        shape[-1] = 1
    rows = torch.stack([any_to_size(view, shape) for view in views]).any(0)
    for view in views:
        missing = rows & ~any_to_size(view, shape)
        first = torch.ones_like(view)
        for dim, size in enumerate(shape):
            if size == 1:
                first[(slice(None),) * dim + (slice(1, None),)] = False
        view |= missing & first


def make_rectangular(mask: Tensor) -> Tensor:
    """Add elements until the mask can be stored as a tensor: rows that are not empty have equally many."""
    if mask.ndim == 0:
        return torch.ones_like(mask)
    rows = make_rectangular(mask.any(-1))
    count = mask.sum(-1, keepdim=True)
    most = count[rows].max().clamp(min=1)
    added = ~mask & ((~mask).cumsum(-1) <= most - count)
    return (mask | added) & rows.unsqueeze(-1)


def positions(mask: Tensor) -> Tensor:
    """Flat positions of the elements of a rectangular mask, in the shape they are stored in."""
    sizes, rest = [], mask
    while rest.ndim:
        sizes.append(int(rest.sum(-1).max()))
        rest = rest.any(-1)
    return torch.arange(mask.numel())[mask.reshape(-1)].reshape(sizes[::-1])
