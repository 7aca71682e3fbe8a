"""Turn layers that are called as functions (``F.linear``) into modules, so that the same rules hold."""

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from .graph import count_uses, fetch, unused_name

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_CONVOLUTIONS = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TENSORS = ("weight", "bias", "running_mean", "running_var")


def make_modules(network: fx.GraphModule) -> None:
    """Replace ``F.linear``, ``F.conv2d`` and the like by modules, where nothing else reads their parameters."""
    uses = count_uses(network)
    for node in list(network.graph.nodes):
        if node.op != "call_function":
            continue
        call = _arguments(node)
        reads = {name: call[name] for name in _TENSORS if call.get(name) is not None}
        if not reads or any(n.op != "get_attr" or uses[n.target] != 1 for n in reads.values()):
            continue
        layer = _layer(node, call, {name: fetch(network, n.target) for name, n in reads.items()})
        if layer is None:
            continue
        owner = next(iter(reads.values())).target.rpartition(".")[0]
        prefix = f"{owner}.{type(layer).__name__.lower()}".lstrip(".")
        name = unused_name(prefix, {name for name, _ in network.named_modules()})
        network.add_submodule(name, layer)
        with network.graph.inserting_before(node):
            module = network.graph.call_module(name, (call["input"],))
        module.meta.update(node.meta)
        node.replace_all_uses_with(module)
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.recompile()


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a layer's function by name; none for any other function."""
    if node.target is F.linear or node.target in _CONVOLUTIONS:
        return dict(zip(_ARGUMENTS, node.args)) | dict(node.kwargs)
    if node.target is F.batch_norm:
        return dict(inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs).arguments)
    return {}


def _layer(node: fx.Node, call: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module | None:
    """The module of a call, with the tensors of the call; None if no module does the same."""
    options = {name: call[name] for name in ("stride", "padding", "dilation", "groups", "eps") if name in call}
    if any(isinstance(value, fx.Node) for value in options.values()) or not isinstance(call["input"], fx.Node):
        return None
    if node.target is F.batch_norm:
        affine = "weight" in tensors and "bias" in tensors
        complete = "running_mean" in tensors and len(tensors) == (4 if affine else 2)
        if call.get("training") is not False or not complete:
            return None
        batch_norm = _BATCH_NORMS[node.meta["example"].ndim]
        layer: nn.Module = batch_norm(len(tensors["running_mean"]), affine=affine, **options)
    elif "weight" not in tensors:
        return None
    else:
        outputs, inputs, *kernel = tensors["weight"].shape
        options |= {"bias": "bias" in tensors, "device": "meta"}
        if node.target is F.linear:
            layer = nn.Linear(inputs, outputs, **options)
        else:
            inputs *= options.get("groups", 1)
            layer = _CONVOLUTIONS[node.target](inputs, outputs, tuple(kernel), **options)  # type: ignore[index]
    for name, tensor in tensors.items():
        parameter = name in ("weight", "bias") and not isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)
    return layer.eval()
