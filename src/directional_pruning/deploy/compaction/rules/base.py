"""What a rule is; the rules of unknown operations and of what reads parameters, shapes and parts of tuples."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from ..masks import Units, positions
from ..trace import fetch


class UnsupportedError(Exception):
    """A rule does not hold for this use of an operation."""


class Rule:
    """One node of the graph. By itself the rule for what is not understood: all is needed, nothing is removed.

    ``forward`` (inputs before outputs) finds what is constant, ``backward`` (the other way) what is needed; ``tie``
    makes the kept elements of inputs and outputs fit each other, ``settle`` asks for more of them where that is not
    enough (and says whether it did), ``rewrite`` makes the node smaller.
    """

    def __init__(self, node: fx.Node, network: fx.GraphModule, rules: "dict[fx.Node, Rule]") -> None:
        self.node, self.network, self.rules = node, network, rules
        self.target: Any = node.target
        self.operands = [n for n in node.all_input_nodes if rules[n].outs]
        self.ins = [units for operand in self.operands for units in rules[operand].outs]
        self.outs = self.forward()

    def forward(self) -> list[Units]:
        return [Units.whole(t.shape) for t in tensors(self.node.meta["example"])]

    def backward(self) -> None:
        for units in self.ins:
            units.require(torch.ones_like(units.keep))
            units.keep.fill_(True)

    def tie(self) -> None:
        for units in (*self.ins, *self.outs):
            units.keep.fill_(True)

    def settle(self) -> bool:
        return False

    def rewrite(self) -> None:
        pass

    @property
    def out(self) -> Units:
        return self.outs[0]

    def run(self, replace: dict[fx.Node, Any], call: tuple[str, Any, tuple, dict] | None = None) -> Any:
        """The operation on other tensors; sizes and other plain values are those of the example run."""

        def value(node: fx.Node) -> Any:
            return replace[node] if node in replace else node.meta["example"]

        op, target, args, kwargs = call or (self.node.op, self.target, self.node.args, self.node.kwargs)
        args, kwargs = fx.map_arg(args, value), fx.map_arg(kwargs, value)
        if op == "call_module":
            return self.network.get_submodule(target)(*args, **kwargs)
        if op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an example result: one, or those of a tuple or list."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [item for item in value if isinstance(item, Tensor)]
    return []


class Attribute(Rule):
    """A parameter or buffer read as such. It can be sliced along the dimensions that its only reader asks for."""

    def forward(self) -> list[Units]:
        self.tensor = fetch(self.network, self.target).detach()
        units = Units.whole(self.tensor.shape)
        if self.tensor.numel() and bool((self.tensor == self.tensor.reshape(-1)[0]).all()):
            units.known, units.value = ~units.known, units.value + self.tensor.reshape(-1)[0]
        return [units]

    def open(self, shape: tuple[int, ...]) -> Units:
        """Units along the dimensions, aligned at the right, in which ``shape`` is larger than 1."""
        lowest = highest = self.tensor.double()
        for dim in range(-lowest.ndim, 0):
            if -dim > len(shape) or shape[dim] == 1:
                lowest, highest = lowest.amin(dim, keepdim=True), highest.amax(dim, keepdim=True)
        self.outs[0] = Units(self.out.shape, lowest == highest, lowest)
        return self.out

    def tie(self) -> None:
        if self.out.known.numel() == 1:
            self.out.keep.fill_(True)

    def rewrite(self) -> None:
        if self.out.sliced:
            path, _, name = self.target.rpartition(".")
            owner, old = fetch(self.network, path) if path else self.network, fetch(self.network, self.target)
            new = self.tensor.expand(self.out.shape)
            index = positions(self.out.keep)
            for dim, size in enumerate(self.out.keep.shape):
                if size > 1:
                    # Units of an attribute lie along one dimension; settle keeps all of them otherwise.
                    new = new.index_select(dim, index.reshape(-1))
            if isinstance(old, torch.nn.Parameter):
                setattr(owner, name, torch.nn.Parameter(new, old.requires_grad))
            else:
                setattr(owner, name, new)

    def settle(self) -> bool:
        several = sum(size > 1 for size in self.out.keep.shape) > 1
        if several and self.out.sliced:
            self.out.keep.fill_(True)
            return True
        return False


class ShapeOf(Rule):
    """A shape that is read: sizes of sliced dimensions become the numbers they were."""

    def forward(self) -> list[Units]:
        self.reads = [self.node] if isinstance(self.node.meta["example"], int) else list(self.node.users)
        return []

    def backward(self) -> None:
        pass

    def _dims(self) -> list[int] | None:
        if isinstance(self.node.meta["example"], int):
            dims = [*self.node.args[1:], *self.node.kwargs.values()]
        else:
            dims = [user.args[1] for user in self.reads if user.target is operator.getitem]
        plain = len(dims) == len(self.reads) and all(isinstance(dim, int) for dim in dims)
        return [dim for dim in dims if isinstance(dim, int)] if plain else None

    def tie(self) -> None:
        if self._dims() is None:
            self.ins[0].keep.fill_(True)

    def rewrite(self) -> None:
        (units,) = self.ins
        if units.sliced:
            kept = units.kept_shape()
            for read, dim in zip(self.reads, self._dims() or []):
                if kept[dim] != units.shape[dim]:
                    size = units.shape[dim]
                    for user in list(read.users):
                        user.args = fx.map_arg(user.args, lambda n, r=read, s=size: s if n is r else n)
                        user.kwargs = fx.map_arg(user.kwargs, lambda n, r=read, s=size: s if n is r else n)


class Item(Rule):
    """One tensor out of several: the same units under another name."""

    def forward(self) -> list[Units]:
        outs, source = self.ins, self.operands[0].meta["example"]
        if len(tensors(source)) != len(source) or not isinstance(self.node.args[1], (int, slice)):
            raise UnsupportedError
        picked = outs[self.node.args[1]]
        return picked if isinstance(picked, list) else [picked]

    def backward(self) -> None:
        pass

    def tie(self) -> None:
        pass


class Silent(Rule):
    """Reads something of a tensor that no removal changes, as its device."""

    def forward(self) -> list[Units]:
        return []

    def backward(self) -> None:
        pass

    def tie(self) -> None:
        pass
