"""Operations that only move elements: views, transposes, slices, concatenation. One rule for all of them."""

from typing import Any

import torch
from torch import Tensor, fx

from ..graph import operation_name
from ..masks import ChannelMasks, positions
from .base import Rule, UnsupportedError, tensors


class Movement(Rule):
    """Runs the operation on tensors of element numbers, and so learns where each element goes."""

    def find_constants(self) -> list[ChannelMasks]:
        if not self.inputs:
            raise UnsupportedError
        sizes = [masks.constant.numel() for masks in self.inputs]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        numbers = [torch.arange(size).reshape(masks.constant.shape) for size, masks in zip(sizes, self.inputs)]
        moved = tensors(self.run(self._numbered(numbers)))
        # For each output the numbers of the input elements at its places.
        self.sources = [_reduce_to_channels(t) for t in moved]
        constant = torch.cat([masks.constant.reshape(-1) for masks in self.inputs])
        value = torch.cat([masks.value.reshape(-1) for masks in self.inputs])
        return [ChannelMasks(tuple(t.shape), constant[s], value[s]) for t, s in zip(moved, self.sources)]

    def _numbered(self, numbers: list[Tensor]) -> dict[fx.Node, Tensor]:
        """The inputs, filled with the numbers of their elements; broadcast dimensions as in the example run."""
        filled = {}
        for node, masks, start, number in zip(self.input_nodes, self.inputs, self.starts, numbers):
            sizes = zip(number.shape, masks.constant.shape, masks.shape)
            shape = [size if mask > 1 else real for size, mask, real in sizes]
            filled[node] = (number + start).expand(shape).contiguous()
        return filled

    def find_needed(self) -> None:
        self._pull("needed")
        for masks in self.inputs:
            masks.mark_needed(masks.needed)

    def _pull(self, name: str) -> None:
        """Add to a mask of the inputs what the same mask of the outputs has."""
        flat = torch.cat([getattr(masks, name).reshape(-1) for masks in self.inputs])
        for masks, source in zip(self.outputs, self.sources):
            flat[source[getattr(masks, name)]] = True
        for masks, start in zip(self.inputs, self.starts):
            mask = getattr(masks, name)
            mask |= flat[start : start + mask.numel()].reshape(mask.shape)

    def propagate(self) -> None:
        self._pull("remaining")
        flat = torch.cat([masks.remaining.reshape(-1) for masks in self.inputs])
        for masks, source in zip(self.outputs, self.sources):
            masks.remaining |= flat[source]

    def fix_conflicts(self) -> bool:
        """Keep everything where the operation on the smaller tensors would not give the smaller outputs."""
        if not self._shrinks():
            return False
        try:
            call = self._smaller_call()
            numbered = self._numbered([positions(masks.remaining) for masks in self.inputs])
            fits = all(
                torch.equal(result, source.reshape(-1)[positions(masks.remaining)].expand_as(result))
                for result, masks, source in zip(
                    tensors(self.run(numbered, call)), self.outputs, self.sources, strict=True
                )
            )
        except (RuntimeError, IndexError, ValueError, TypeError):
            fits = False
        if not fits:
            self.keep_all()
        return not fits

    def rewrite(self) -> None:
        if self._shrinks():
            self.node.op, self.node.target, self.node.args, self.node.kwargs = self._smaller_call()

    def _shrinks(self) -> bool:
        return any(masks.shrinks for masks in (*self.inputs, *self.outputs))

    def _smaller_call(self) -> tuple[str, Any, tuple, dict]:
        """The node for the smaller tensors: sizes that shrink become plain numbers."""
        op, target, args, kwargs = self.node.op, self.target, self.node.args, self.node.kwargs
        name = operation_name(self.network, self.node)
        if name in ("view", "reshape", "unflatten") and self.output.shrinks:
            first = 2 if name == "unflatten" else 1
            listed = isinstance(args[first], (tuple, list))
            sizes: Any = args[first] if listed else args[first:]
            start: Any = args[1] if name == "unflatten" else 0
            start %= self.inputs[0].remaining.ndim
            smaller, masks = self.output.smaller_shape()[start:], self.output.remaining.shape[start:]
            sizes = tuple(new if mask > 1 and old != -1 else old for old, new, mask in zip(sizes, smaller, masks))
            args = (*args[:first], sizes) if listed else (*args[:first], *sizes)
        if name in ("chunk", "split"):
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
            if not isinstance(dim, int):
                raise ValueError(f"invalid dim: {dim}")
            if not self.inputs[0].is_broadcast(dim):
                sizes = [masks.smaller_shape()[dim] for masks in self.outputs]
                op, target, args, kwargs = "call_function", torch.split, (args[0], sizes, dim), {}
        return op, target, args, dict(kwargs)


def _reduce_to_channels(t: Tensor) -> Tensor:
    """Reduce to size 1 the dimensions along which the tensor does not vary."""
    for dim in range(t.ndim):
        if t.shape[dim] and torch.equal(t, t.narrow(dim, 0, 1).expand_as(t)):
            t = t.narrow(dim, 0, 1)
    return t
