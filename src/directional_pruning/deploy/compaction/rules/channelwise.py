"""Operations on each channel by itself: pooling, resizing, padding, softmax, means."""

import inspect
from typing import Any

import torch
from torch import Tensor, fx

from ..graph import operation_name
from ..masks import ChannelMasks
from .base import Rule, UnknownOperationError, UnsupportedError
from .elementwise import Elementwise

_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


class PerChannel(Elementwise):
    """A function of each channel by itself.

    Args:
        dims: the dimensions it mixes, counted from the right; they must be broadcast dimensions.
        keeps_zero: whether a channel that is zero everywhere stays zero.
        keeps_constant: whether a channel that is any constant everywhere stays that constant.
    """

    def __init__(
        self, *node: Any, dims: tuple[int, ...] = (), keeps_zero: bool = False, keeps_constant: bool = False
    ) -> None:
        self.dims, self.keeps_zero, self.keeps_constant = dims, keeps_zero, keeps_constant
        super().__init__(*node)

    def find_constants(self) -> list[ChannelMasks]:
        (masks,) = self.inputs
        if any(-dim > masks.constant.ndim or not masks.is_broadcast(dim) for dim in self.dims):
            raise UnsupportedError
        return super().find_constants()

    def output_constants(self, constant: list[Tensor]) -> tuple[Tensor, Tensor]:
        masks = self.inputs[0]
        if self.keeps_constant:
            return masks.constant, masks.value
        return masks.zero & torch.tensor(self.keeps_zero), masks.value


class Reduction(PerChannel):
    """A mean, sum or maximum over broadcast dimensions, which may go away."""

    def find_constants(self) -> list[ChannelMasks]:
        (masks,) = self.inputs
        if any(not masks.is_broadcast(dim) for dim in self.dims):
            raise UnsupportedError
        constant, value = self.output_constants([masks.constant])
        # Over dimensions of size 1 the operation only reshapes: the numbers of the elements show how.
        numbers = torch.arange(constant.numel(), dtype=torch.float64).reshape(constant.shape)
        index = self.run({self.input_nodes[0]: numbers}).long()
        shape = tuple(self.node.meta["example"].shape)
        return [ChannelMasks(shape, constant.reshape(-1)[index], value.reshape(-1)[index])]

    def find_needed(self) -> None:
        self.inputs[0].mark_needed(self.output.needed.reshape(self.inputs[0].needed.shape))

    def propagate(self) -> None:
        either = self.output.remaining.reshape(self.inputs[0].remaining.shape) | self.inputs[0].remaining
        self.inputs[0].remaining |= either
        self.output.remaining |= either.reshape(self.output.remaining.shape)


# One function for each kind of operation: they read its options and build the rule, as the tables of dispatch.py ask.


def max_pool(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """The largest element of each window."""
    options = _options(node, network, _MAX_POOL)
    # Every window holds an element of the input, unless it is dilated.
    undilated = options.get("dilation", 1) in (1, (1, 1), (1, 1, 1), [1, 1])
    return PerChannel(node, network, rules, dims=_spatial(node, network), keeps_constant=undilated)


def avg_pool(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """The mean of each window; padding may count as zeros."""
    options = _options(node, network, _AVG_POOL)
    padding = options.get("padding", 0)
    padded = any(padding) if isinstance(padding, (tuple, list)) else padding != 0
    mixes_zeros = padded and options.get("count_include_pad", True)
    exact = not mixes_zeros and options.get("divisor_override") is None
    return PerChannel(node, network, rules, dims=_spatial(node, network), keeps_zero=True, keeps_constant=exact)


def adaptive_pool(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """A mean or maximum over windows that cover the input."""
    return PerChannel(node, network, rules, dims=_spatial(node, network), keeps_zero=True, keeps_constant=True)


def other_pool(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """Pooling that keeps no constant exactly."""
    return PerChannel(node, network, rules, dims=_spatial(node, network))


def resize(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """Interpolation between the positions of a channel."""
    return PerChannel(node, network, rules, dims=tuple(range(2 - _ndim(node), 0)), keeps_constant=True)


def pad(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """Padding with a value, or by copies of the input."""
    options = _options(node, network)
    dims = tuple(-1 - i // 2 for i, size in enumerate(options["pad"]) if size != 0)
    repeats = options.get("mode", "constant") != "constant"
    return PerChannel(node, network, rules, dims=dims, keeps_zero=not options.get("value"), keeps_constant=repeats)


def softmax(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """A softmax over positions, which sees all of them."""
    return PerChannel(node, network, rules, dims=_dims(node, network))


def add_up(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """A sum over positions, whose number depends on the input size."""
    return Reduction(node, network, rules, dims=_dims(node, network), keeps_zero=True)


def average(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """A mean, or a largest or smallest element."""
    return Reduction(node, network, rules, dims=_dims(node, network), keeps_zero=True, keeps_constant=True)


def dropout(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """The identity in evaluation mode; in training mode no output is constant."""
    random = _options(node, network).get("training", True) is not False
    return PerChannel(node, network, rules) if random else Elementwise(node, network, rules)


def _spatial(node: fx.Node, network: fx.GraphModule) -> tuple[int, ...]:
    """The last dimensions, as many as the name of the operation says: two for ``max_pool2d``."""
    return tuple(range(-int(operation_name(network, node)[-2]), 0))


def _ndim(node: fx.Node) -> int:
    return next(n.meta["example"].ndim for n in node.all_input_nodes if isinstance(n.meta["example"], Tensor))


def _dims(node: fx.Node, network: fx.GraphModule) -> tuple[int, ...]:
    """The argument ``dim`` or ``axis``, counted from the right."""
    options = _options(node, network)
    dim = options.get("dim", options.get("axis"))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if not all(isinstance(d, int) for d in dims):
        raise UnknownOperationError
    ndim = _ndim(node)
    return tuple(d if d < 0 else d - ndim for d in dims)


def _options(node: fx.Node, network: fx.GraphModule, names: tuple[str, ...] = ("input", "dim")) -> dict[str, Any]:
    """The attributes of a module, or the arguments of a call by name; ``names`` serve a call without a signature."""
    if node.op == "call_module":
        return vars(network.get_submodule(str(node.target)))
    try:
        arguments = dict(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method, or written in C
        arguments = {}
    if arguments and "args" not in arguments:
        return arguments
    return dict(zip(names, node.args)) | dict(node.kwargs)
