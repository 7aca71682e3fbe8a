"""Nodes that read and compute nothing: a parameter, the shape of a tensor, one tensor of a tuple, a dtype."""

import operator

import torch
from torch import fx

from ..graph import fetch
from ..masks import ChannelMasks, positions
from .base import Rule, UnsupportedError, tensors


class Attribute(Rule):
    """A parameter or buffer that the graph reads; it shrinks along the dimensions in which its reader has channels."""

    def find_constants(self) -> list[ChannelMasks]:
        self.tensor = fetch(self.network, self.target).detach()
        masks = ChannelMasks.without_channels(self.tensor.shape)
        if self.tensor.numel() and bool((self.tensor == self.tensor.reshape(-1)[0]).all()):
            masks.constant, masks.value = ~masks.constant, masks.value + self.tensor.reshape(-1)[0]
        return [masks]

    def use_channels(self, shape: tuple[int, ...]) -> ChannelMasks:
        """Give it channels in the dimensions, aligned at the right, in which ``shape`` is larger than 1."""
        lowest = highest = self.tensor.double()
        for dim in range(-lowest.ndim, 0):
            if -dim > len(shape) or shape[dim] == 1:
                lowest, highest = lowest.amin(dim, keepdim=True), highest.amax(dim, keepdim=True)
        self.outputs[0] = ChannelMasks(self.output.shape, lowest == highest, lowest)
        return self.output

    def propagate(self) -> None:
        if self.output.constant.numel() == 1:
            self.output.remaining.fill_(True)

    def fix_conflicts(self) -> bool:
        several = sum(size > 1 for size in self.output.remaining.shape) > 1
        if several and self.output.shrinks:
            self.output.remaining.fill_(True)
            return True
        return False

    def rewrite(self) -> None:
        if self.output.shrinks:
            path, _, name = self.target.rpartition(".")
            owner, old = fetch(self.network, path) if path else self.network, fetch(self.network, self.target)
            new = self.tensor.expand(self.output.shape)
            index = positions(self.output.remaining)
            for dim, size in enumerate(self.output.remaining.shape):
                if size > 1:  # one dimension at most: fix_conflicts keeps all elements otherwise
                    new = new.index_select(dim, index.reshape(-1))
            parameter = isinstance(old, torch.nn.Parameter)
            setattr(owner, name, torch.nn.Parameter(new, old.requires_grad) if parameter else new)


class ShapeOf(Rule):
    """A shape that is read: a size that shrinks is replaced by the number it was in the example run."""

    def find_constants(self) -> list[ChannelMasks]:
        self.readers = [self.node] if isinstance(self.node.meta["example"], int) else list(self.node.users)
        return []

    def _dims(self) -> list[int] | None:
        """The dimension that each reader takes; None if one takes something else."""
        if isinstance(self.node.meta["example"], int):
            dims = [*self.node.args[1:], *self.node.kwargs.values()]
        else:
            dims = [user.args[1] for user in self.readers if user.target is operator.getitem]
        plain = len(dims) == len(self.readers) and all(isinstance(dim, int) for dim in dims)
        return [dim for dim in dims if isinstance(dim, int)] if plain else None

    def propagate(self) -> None:
        if self._dims() is None:
            self.inputs[0].remaining.fill_(True)

    def rewrite(self) -> None:
        (masks,) = self.inputs
        if not masks.shrinks:
            return
        smaller = masks.smaller_shape()
        for reader, dim in zip(self.readers, self._dims() or []):
            size = masks.shape[dim]
            if smaller[dim] != size:
                for user in list(reader.users):
                    user.args = fx.map_arg(user.args, lambda n, r=reader, s=size: s if n is r else n)
                    user.kwargs = fx.map_arg(user.kwargs, lambda n, r=reader, s=size: s if n is r else n)


class Item(Rule):
    """One tensor out of several: it shares the masks of that tensor."""

    def find_constants(self) -> list[ChannelMasks]:
        source = self.input_nodes[0].meta["example"]
        if len(tensors(source)) != len(source) or not isinstance(self.node.args[1], (int, slice)):
            raise UnsupportedError
        picked = self.inputs[self.node.args[1]]
        return picked if isinstance(picked, list) else [picked]


class Metadata(Rule):
    """Reads something of a tensor that no removal changes, such as its device."""

    def find_constants(self) -> list[ChannelMasks]:
        return []
