"""Operations on each element, or on each channel, by itself."""

from typing import Any

import torch
from torch import Tensor

from ..masks import Units, tie
from .base import Attribute, Rule, UnsupportedError


class Elementwise(Rule):
    """Any function of one element of each input: activations, sums, products."""

    def forward(self) -> list[Units]:
        example = self.node.meta["example"]
        ndim = example.ndim if isinstance(example, Tensor) else -1
        for operand, units in zip(self.operands, self.ins):
            rule = self.rules[operand]
            if isinstance(rule, Attribute) and len(operand.users) == 1:
                others = [u.known.shape for u in self.ins if u is not units]
                self.ins[self.ins.index(units)] = rule.open(torch.broadcast_shapes(*others) if others else ())
        if not self.ins or any(units.known.ndim > ndim for units in self.ins):
            raise UnsupportedError
        known = [u.known[(None,) * (ndim - u.known.ndim)] for u in self.ins]
        shape = torch.broadcast_shapes(*(k.shape for k in known))
        return [Units(tuple(example.shape), *self.constants([k.expand(shape) for k in known]))]

    def constants(self, known: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Which outputs are known, and their value, from which inputs are."""
        out = torch.stack(known).all(0)
        value = torch.zeros(out.shape, dtype=torch.float64)
        if out.any():
            given = {n: u.value.to(n.meta["example"].dtype, copy=True) for n, u in zip(self.operands, self.ins)}
            value = self.run(given).double().expand(out.shape)
        return out & value.isfinite(), value

    def backward(self) -> None:
        for units in self.ins:
            units.require(self.out.need)

    def tie(self) -> None:
        if any(units.rigid(self.out.keep.shape) for units in self.ins):
            self.out.keep.fill_(True)
        for units in self.ins:
            tie([units.keep, self.out.keep])


class Product(Elementwise):
    """A product of inputs: zero where one of them is."""

    def constants(self, known: list[Tensor]) -> tuple[Tensor, Tensor]:
        out, value = super().constants(known)
        zero = torch.stack([(k & (u.value == 0)) for k, u in zip(known, self.ins)]).any(0)
        return out | zero, torch.where(zero, 0.0, value)


class PerChannel(Elementwise):
    """A function of each channel by itself: pooling, resizing, softmax over tokens.

    ``dims`` are the dimensions it mixes, from the right; ``zero`` and ``constant`` say what it leaves as it is.
    """

    def __init__(self, *given: Any, dims: tuple[int, ...] = (), zero: bool = False, constant: bool = False) -> None:
        self.dims, self.zero, self.constant = dims, zero, constant
        super().__init__(*given)

    def forward(self) -> list[Units]:
        (units,) = self.ins
        if any(-dim > units.known.ndim or not units.free(dim) for dim in self.dims):
            raise UnsupportedError
        return super().forward()

    def constants(self, known: list[Tensor]) -> tuple[Tensor, Tensor]:
        units = self.ins[0]
        if self.constant:
            return units.known, units.value
        return units.known & (units.value == 0) & torch.tensor(self.zero), units.value


class Reduction(PerChannel):
    """A mean, sum or maximum over free dimensions, which may go away."""

    def forward(self) -> list[Units]:
        (units,) = self.ins
        if any(not units.free(dim) for dim in self.dims):
            raise UnsupportedError
        known, value = self.constants([units.known])
        # Over dimensions of size 1 the operation only reshapes.
        places = torch.arange(known.numel(), dtype=torch.float64).reshape(known.shape)
        self.index = self.run({self.operands[0]: places}).long()
        return [Units(tuple(self.node.meta["example"].shape), *(x.reshape(-1)[self.index] for x in (known, value)))]

    def backward(self) -> None:
        self.ins[0].require(self.out.need.reshape(self.ins[0].need.shape))

    def tie(self) -> None:
        kept = self.out.keep.reshape(self.ins[0].keep.shape) | self.ins[0].keep
        self.ins[0].keep |= kept
        self.out.keep |= kept.reshape(self.out.keep.shape)
