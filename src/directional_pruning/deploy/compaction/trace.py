"""From a network to its graph: traced, without in-place operations, batch norm folded, the shapes noted."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._pytree import tree_map_only

from .decompose import drop_projections, spelled_out, split_projections
from .modules import make_modules

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "setitem")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Tracer(fx.Tracer):
    """Traces the call with so many positional arguments; a module that cannot be traced stays one node."""

    def __init__(self, count: int) -> None:
        super().__init__(param_shapes_constant=False)
        self.count = count

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple[Any, list]:
        """Placeholders for the arguments that are given; the others keep their defaults."""
        names = list(inspect.signature(self.root.forward).parameters)
        names += [f"input_{i}" for i in range(len(names), self.count)]

        def forward(root: nn.Module, *args: Any) -> Any:
            result = spelled_out(root, args, {})
            return root_fn(root, *args) if result is NotImplemented else result

        return forward, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names[: self.count])]

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Iterate over chunks, whose number the call says."""
        node, number = obj.node, obj.node.args[1:2] or tuple(obj.node.kwargs.values())[:1]
        if node.target in ("chunk", torch.chunk) and isinstance(number[0], int):
            return iter([obj[i] for i in range(number[0])])
        return super().iter(obj)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """Trace into a module, or leave it a node where its Python depends on the data."""
        before = len(self.graph.nodes)
        try:
            result = spelled_out(m, args, kwargs)
            return super().call_module(m, forward, args, kwargs) if result is NotImplemented else result
        except Exception:
            for node in list(self.graph.nodes)[: before - 1 : -1]:
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def trace(model: nn.Module, inputs: tuple) -> fx.GraphModule:
    """The graph of a network in evaluation mode, in the form the rules expect; raises ValueError if it has none."""
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
    count = uses(network)
    make_modules(network, lambda target: count[target] == 1)
    _fold_batch_norm(network)
    return network


def note_shapes(network: fx.GraphModule, inputs: tuple) -> None:
    """Run the graph and leave in ``node.meta["example"]`` what each node gave, tensors without their data."""

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            n.meta["example"] = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), result)
            return result

    with torch.no_grad():
        Noting(network).run(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))


def uses(network: fx.GraphModule) -> Counter[str]:
    """How often each module or attribute takes part in the graph, by target; under all names of what is shared."""
    count: Counter[int] = Counter()
    held: dict[str, list[int]] = {}
    for node in network.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            thing = fetch(network, node.target)
            tensors = [thing] if isinstance(thing, Tensor) else [*thing.parameters(), *thing.buffers()]
            held[node.target] = [id(thing), *(id(tensor) for tensor in tensors if tensor is not thing)]
            count.update(held[node.target])
    return Counter({target: max(count[i] for i in ids) for target, ids in held.items()})


def fetch(network: nn.Module, target: str) -> Any:
    """The module, parameter or buffer of that name."""
    thing: Any = network
    for part in target.split("."):
        thing = getattr(thing, part)
    return thing


def name_of(network: fx.GraphModule, node: fx.Node) -> str:
    """The operation: the name of its function or method, or of the class of its module."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def is_plain(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Exactly one of these layers: a subclass, a hook or a parametrization may do anything."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return type(module) in kinds and not any(hooks) and "forward" not in vars(module)


def _name_in_place_results(network: fx.GraphModule) -> None:
    """After ``relu_(x)`` whoever reads x reads the result: make the graph say so."""
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    for node in network.graph.nodes:
        if node.op == "call_module":
            in_place = getattr(network.get_submodule(node.target), "inplace", False)
        else:
            name = name_of(network, node)
            in_place = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE or _asks_in_place(node)
        if in_place and node.all_input_nodes:
            first = node.all_input_nodes[0]
            first.replace_all_uses_with(node, lambda user, at=order[node]: order[user] > at)


def _asks_in_place(node: fx.Node) -> bool:
    try:
        arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method, or written in C
        return bool(node.kwargs.get("inplace"))
    return bool(arguments.get("inplace"))


def _fold_batch_norm(network: fx.GraphModule) -> None:
    count = uses(network)
    for node in list(network.graph.nodes):
        if node.op != "call_module" or count[node.target] > 1 or len(node.all_input_nodes) != 1:
            continue
        norm: Any = network.get_submodule(node.target)
        before = node.all_input_nodes[0]
        if not is_plain(norm, BATCH_NORMS) or norm.running_mean is None:
            continue
        if before.op != "call_module" or count[before.target] > 1 or len(before.users) > 1:
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
