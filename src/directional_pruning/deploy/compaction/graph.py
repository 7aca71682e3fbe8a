"""Tools for a traced network: look up what a node calls, count its users, note shapes, drop what is unused."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fetch(network: nn.Module, target: str) -> Any:
    """The module, parameter or buffer of that name."""
    value: Any = network
    for part in target.split("."):
        value = getattr(value, part)
    return value


def unused_name(prefix: str, taken: set[str]) -> str:
    """``prefix`` followed by the smallest number that makes a new name."""
    return next(name for i in range(len(taken) + 1) if (name := f"{prefix}{i}") not in taken)


def operation_name(network: fx.GraphModule, node: fx.Node) -> str:
    """The name of the node's function or method, or of the class of its module."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def is_plain(module: nn.Module, classes: tuple[type, ...]) -> bool:
    """Whether it is exactly one of these layers: a subclass, a hook or a parametrization may do anything."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return type(module) in classes and not any(hooks) and "forward" not in vars(module)


def note_shapes(network: fx.GraphModule, inputs: tuple) -> None:
    """Run the graph and leave each result in ``node.meta["example"]``, tensors without their data."""

    class Interpreter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            n.meta["example"] = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), result)
            return result

    with torch.no_grad():
        Interpreter(network).run(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))


def count_uses(network: fx.GraphModule) -> Counter[str]:
    """How often the graph uses each module or attribute, by target; a shared one counts under all of its names."""
    count: Counter[int] = Counter()
    identities: dict[str, list[int]] = {}
    for node in network.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            value = fetch(network, node.target)
            tensors = [value] if isinstance(value, Tensor) else [*value.parameters(), *value.buffers()]
            identities[node.target] = [id(value), *(id(tensor) for tensor in tensors if tensor is not value)]
            count.update(identities[node.target])
    return Counter({target: max(count[i] for i in ids) for target, ids in identities.items()})


def remove_unused(network: fx.GraphModule) -> None:
    """Remove the nodes, modules, parameters and buffers that no output depends on."""
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    called = [node.target for node in network.graph.nodes if node.op == "call_module"]
    in_called = {module for target in called for module in network.get_submodule(target).modules()}
    read = {node.target for node in network.graph.nodes if node.op == "get_attr"}
    for prefix, module in network.named_modules():
        if module in in_called:
            continue
        for name, _ in [*module.named_parameters("", False), *module.named_buffers("", False)]:
            if f"{prefix}.{name}".lstrip(".") not in read:
                delattr(module, name)
