"""From a network to its graph: no in-place results, layers as modules, batch norm folded, shapes noted."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from .decompose import decompose, drop_projections, split_projections
from .graph import BATCH_NORMS, CONVOLUTIONS, count_uses, is_plain, note_shapes, operation_name
from .modules import make_modules

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "setitem")


class Tracer(fx.Tracer):
    """Traces forward with ``count`` positional arguments; a module that cannot be traced stays one node."""

    def __init__(self, count: int) -> None:
        super().__init__(param_shapes_constant=False)
        self.count = count

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple[Any, list]:
        """Placeholders for the first arguments; the others have their defaults."""
        names = list(inspect.signature(self.root.forward).parameters)
        names += [f"input_{i}" for i in range(len(names), self.count)]

        def forward(root: nn.Module, *args: Any) -> Any:
            result = decompose(root, args, {})
            return root_fn(root, *args) if result is NotImplemented else result

        return forward, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names[: self.count])]

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Iterate over chunks: the call says how many there are."""
        node, number = obj.node, obj.node.args[1:2] or tuple(obj.node.kwargs.values())[:1]
        if node.target in ("chunk", torch.chunk) and isinstance(number[0], int):
            return iter([obj[i] for i in range(number[0])])
        return super().iter(obj)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """Trace into a module, or make it one node if its Python code depends on the data."""
        before = len(self.graph.nodes)
        try:
            result = decompose(m, args, kwargs)
            return super().call_module(m, forward, args, kwargs) if result is NotImplemented else result
        except Exception:
            for node in list(self.graph.nodes)[: before - 1 : -1]:
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def trace(model: nn.Module, inputs: tuple) -> fx.GraphModule:
    """The graph of a network in evaluation mode, in the form that the rules expect.

    Raises ValueError if the network cannot be traced.
    """
    split_projections(model)
    try:
        graph = Tracer(len(inputs)).trace(model)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"invalid model: {type(model).__name__} cannot be traced by torch.fx ({reason})") from error
    plain = fx.Graph()  # unpickling traces again, with the class of tracer the graph remembers
    plain.output(plain.graph_copy(graph, {}))
    network = fx.GraphModule(model, plain)
    network.delete_all_unused_submodules()
    drop_projections(network)
    _name_in_place_results(network)
    note_shapes(network, inputs)
    make_modules(network)
    _fold_batch_norm(network)
    return network


def _name_in_place_results(network: fx.GraphModule) -> None:
    """After ``relu_(x)``, let each later reader of x read the result instead."""
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    for node in network.graph.nodes:
        if node.op == "call_module":
            in_place = getattr(network.get_submodule(node.target), "inplace", False)
        else:
            name = operation_name(network, node)
            in_place = (
                (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE or _has_inplace_argument(node)
            )
        if in_place and node.all_input_nodes:
            first = node.all_input_nodes[0]
            first.replace_all_uses_with(node, lambda user, at=order[node]: order[user] > at)


def _has_inplace_argument(node: fx.Node) -> bool:
    try:
        arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method, or written in C
        return bool(node.kwargs.get("inplace"))
    return bool(arguments.get("inplace"))


def _fold_batch_norm(network: fx.GraphModule) -> None:
    """Fold each batch norm into the layer before it, where nothing else reads that layer."""
    uses = count_uses(network)
    for node in list(network.graph.nodes):
        if node.op != "call_module" or uses[node.target] > 1 or len(node.all_input_nodes) != 1:
            continue
        norm: Any = network.get_submodule(node.target)
        before = node.all_input_nodes[0]
        if not is_plain(norm, BATCH_NORMS) or norm.running_mean is None:
            continue
        if before.op != "call_module" or uses[before.target] > 1 or len(before.users) > 1:
            continue
        layer: Any = network.get_submodule(before.target)
        if is_plain(layer, CONVOLUTIONS):
            folded = fuse_conv_bn_eval(layer, norm)
        elif is_plain(layer, (nn.Linear,)) and before.meta["example"].ndim == 2:
            folded = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        assert folded.bias is not None
        folded.bias.requires_grad_(any(p.requires_grad for p in (*layer.parameters(), *norm.parameters())))
        network.set_submodule(before.target, folded)
        node.replace_all_uses_with(before)
        network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
