"""Operations that only move elements: views, transposes, slices, concatenation. One rule for all of them."""

from typing import Any

import torch
from torch import Tensor, fx

from ..masks import Units, positions
from ..trace import name_of
from .base import Rule, UnsupportedError, tensors


class Movement(Rule):
    """Runs the operation on the numbers of the units, and so learns which unit goes where."""

    def forward(self) -> list[Units]:
        if not self.ins:
            raise UnsupportedError
        sizes = [units.known.numel() for units in self.ins]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        numbers = [torch.arange(size).reshape(units.known.shape) for size, units in zip(sizes, self.ins)]
        moved = tensors(self.run(self._spread(numbers)))
        self.index = [_narrow(t) for t in moved]
        known = torch.cat([units.known.reshape(-1) for units in self.ins])
        value = torch.cat([units.value.reshape(-1) for units in self.ins])
        return [Units(tuple(t.shape), known[index], value[index]) for t, index in zip(moved, self.index)]

    def _spread(self, numbers: list[Tensor]) -> dict[fx.Node, Tensor]:
        """The inputs, filled with the numbers of their units; free dimensions as in the example run."""
        given = {}
        for operand, units, start, number in zip(self.operands, self.ins, self.starts, numbers):
            wide = [n if own > 1 else real for n, own, real in zip(number.shape, units.known.shape, units.shape)]
            given[operand] = (number + start).expand(wide).contiguous()
        return given

    def backward(self) -> None:
        self._pull("need")
        for units in self.ins:
            units.require(units.need)

    def _pull(self, mask: str) -> None:
        flat = torch.cat([getattr(units, mask).reshape(-1) for units in self.ins])
        for units, index in zip(self.outs, self.index):
            flat[index[getattr(units, mask)]] = True
        for units, start in zip(self.ins, self.starts):
            own = getattr(units, mask)
            own |= flat[start : start + own.numel()].reshape(own.shape)

    def tie(self) -> None:
        self._pull("keep")
        flat = torch.cat([units.keep.reshape(-1) for units in self.ins])
        for units, index in zip(self.outs, self.index):
            units.keep |= flat[index]

    def settle(self) -> bool:
        """Whether the operation does not hold on the smaller tensors, which then are kept whole."""
        if not self._changes():
            return False
        try:
            smaller = self._smaller()
            given = self._spread([positions(units.keep) for units in self.ins])
            fits = all(
                torch.equal(result, index.reshape(-1)[positions(units.keep)].expand_as(result))
                for result, units, index in zip(tensors(self.run(given, smaller)), self.outs, self.index, strict=True)
            )
        except (RuntimeError, IndexError, ValueError, TypeError):
            fits = False
        if not fits:
            super().tie()
        return not fits

    def rewrite(self) -> None:
        if self._changes():
            self.node.op, self.node.target, self.node.args, self.node.kwargs = self._smaller()

    def _changes(self) -> bool:
        return any(units.sliced for units in (*self.ins, *self.outs))

    def _smaller(self) -> tuple[str, Any, tuple, dict]:
        """The node for the smaller tensors: sizes of sliced dimensions are plain numbers."""
        op, target, args, kwargs = self.node.op, self.target, self.node.args, self.node.kwargs
        name = name_of(self.network, self.node)
        if name in ("view", "reshape", "unflatten") and self.out.sliced:
            first = 2 if name == "unflatten" else 1
            listed = isinstance(args[first], (tuple, list))
            sizes: Any = args[first] if listed else args[first:]
            start: Any = args[1] if name == "unflatten" else 0
            start %= self.ins[0].keep.ndim
            kept, masks = self.out.kept_shape()[start:], self.out.keep.shape[start:]
            sizes = tuple(k if own > 1 and size != -1 else size for size, k, own in zip(sizes, kept, masks))
            args = (*args[:first], sizes) if listed else (*args[:first], *sizes)
        if name in ("chunk", "split"):
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
            if not isinstance(dim, int):
                raise ValueError(f"invalid dim: {dim}")
            if not self.ins[0].free(dim):
                sizes = [units.kept_shape()[dim] for units in self.outs]
                op, target, args, kwargs = "call_function", torch.split, (args[0], sizes, dim), {}
        return op, target, args, dict(kwargs)


def _narrow(t: Tensor) -> Tensor:
    """Size 1 in the dimensions along which a tensor does not vary."""
    for dim in range(t.ndim):
        if t.shape[dim] and torch.equal(t, t.narrow(dim, 0, 1).expand_as(t)):
            t = t.narrow(dim, 0, 1)
    return t
