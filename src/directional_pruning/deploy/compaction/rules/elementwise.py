"""Operations on each element by itself: activations, sums, products."""

import torch
from torch import Tensor, fx, nn

from ..graph import operation_name, unused_name
from ..masks import ChannelMasks, align
from .base import Rule, UnsupportedError
from .reads import Attribute


class Elementwise(Rule):
    """Any function of one element of each input; the inputs broadcast to each other."""

    def find_constants(self) -> list[ChannelMasks]:
        example = self.node.meta["example"]
        ndim = example.ndim if isinstance(example, Tensor) else -1
        for node, masks in zip(self.input_nodes, self.inputs):
            rule = self.rules[node]
            if isinstance(rule, Attribute) and len(node.users) == 1:
                others = [m.constant.shape for m in self.inputs if m is not masks]
                shape = torch.broadcast_shapes(*others) if others else ()
                self.inputs[self.inputs.index(masks)] = rule.use_channels(shape)
        if not self.inputs or any(masks.constant.ndim > ndim for masks in self.inputs):
            raise UnsupportedError
        constant = [m.constant[(None,) * (ndim - m.constant.ndim)] for m in self.inputs]
        shape = torch.broadcast_shapes(*(c.shape for c in constant))
        return [ChannelMasks(tuple(example.shape), *self.output_constants([c.expand(shape) for c in constant]))]

    def output_constants(self, constant: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Which output elements are constant, and their values, from the broadcast masks of the inputs."""
        out = torch.stack(constant).all(0)
        value = torch.zeros(out.shape, dtype=torch.float64)
        if out.any():
            values = [m.value.to(n.meta["example"].dtype, copy=True) for n, m in zip(self.input_nodes, self.inputs)]
            value = self.run(dict(zip(self.input_nodes, values))).double().expand(out.shape)
        return out & value.isfinite(), value

    def replace_constant_input(self) -> bool:
        """Put a parameter, or in a sum of zeros nothing, in the place of an input that is constant as a whole."""
        if self.output.constant.all():
            return False
        name = operation_name(self.network, self.node)
        for node, masks in zip(self.input_nodes, self.inputs):
            others = [other for other in self.input_nodes if other is not node]
            same_shape = [other for other in others if tuple(self.rules[other].output.shape) == self.output.shape]
            changed_in_place = name.startswith("i") and self.node.args[0] is node
            if (
                not masks.constant.all()
                or isinstance(self.rules[node], Attribute)
                or not same_shape
                or changed_in_place
            ):
                continue
            if not masks.value.any() and name in ("add", "iadd") and not self.node.kwargs:
                self.node.replace_all_uses_with(same_shape[0])
            else:
                self._insert_parameter(node, masks.value.to(node.meta["example"].dtype))
            return True
        return False

    def _insert_parameter(self, node: fx.Node, value: Tensor) -> None:
        name = unused_name("constant", {name for name, _ in self.network.named_parameters(recurse=False)})
        self.network.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        with self.network.graph.inserting_before(self.node):
            self.node.replace_input_with(node, self.network.graph.get_attr(name))

    def find_needed(self) -> None:
        for masks in self.inputs:
            masks.mark_needed(self.output.needed)

    def propagate(self) -> None:
        if any(masks.prevents_slicing(self.output.remaining.shape) for masks in self.inputs):
            self.output.remaining.fill_(True)
        for masks in self.inputs:
            align([masks.remaining, self.output.remaining])


class Product(Elementwise):
    """A product of inputs: zero where one of them is."""

    def output_constants(self, constant: list[Tensor]) -> tuple[Tensor, Tensor]:
        out, value = super().output_constants(constant)
        zero = torch.stack([c & (masks.value == 0) for c, masks in zip(constant, self.inputs)]).any(0)
        return out | zero, torch.where(zero, 0.0, value)


def cast(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule]) -> Rule:
    """``x.to(...)``: a function of x alone, unless it takes the dtype of another tensor."""
    if sum(isinstance(n.meta["example"], Tensor) for n in node.all_input_nodes) > 1:
        raise UnsupportedError
    return Elementwise(node, network, rules)
