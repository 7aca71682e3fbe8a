"""Layers that a network calls as functions of its own parameters, made modules so that the same rules hold."""

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_CONVOLUTIONS = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TENSORS = ("weight", "bias", "running_mean", "running_var")


def make_modules(network: fx.GraphModule, once: Any) -> None:
    """Replace ``F.linear``, ``F.conv2d`` and the like where ``once(target)`` says nothing else reads the parameters."""
    for node in list(network.graph.nodes):
        if node.op != "call_function":
            continue
        call = _arguments(node)
        read = {name: call[name] for name in _TENSORS if call.get(name) is not None}
        if not read or any(n.op != "get_attr" or not once(n.target) for n in read.values()):
            continue
        held = {name: _fetch(network, n.target) for name, n in read.items()}
        layer = _layer(node, call, held)
        if layer is None:
            continue
        owner = next(iter(read.values())).target.rpartition(".")[0]
        stem = f"{owner}.{type(layer).__name__.lower()}".lstrip(".")
        taken = {name for name, _ in network.named_modules()}
        name = next(name for i in range(len(taken) + 1) if (name := f"{stem}{i}") not in taken)
        network.add_submodule(name, layer)
        with network.graph.inserting_before(node):
            module = network.graph.call_module(name, (call["input"],))
        module.meta.update(node.meta)
        node.replace_all_uses_with(module)
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.recompile()


def _fetch(network: nn.Module, target: str) -> Tensor:
    owner, _, name = target.rpartition(".")
    return getattr(network.get_submodule(owner), name)


def _arguments(node: fx.Node) -> dict[str, Any]:
    if node.target is F.linear or node.target in _CONVOLUTIONS:
        return dict(zip(_CONVOLUTION, node.args)) | dict(node.kwargs)
    if node.target is F.batch_norm:
        return dict(inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs).arguments)
    return {}


def _layer(node: fx.Node, call: dict[str, Any], held: dict[str, Tensor]) -> nn.Module | None:
    """The module of a call, with the tensors it was called with."""
    options = {name: call[name] for name in ("stride", "padding", "dilation", "groups", "eps") if name in call}
    if any(isinstance(value, fx.Node) for value in options.values()) or not isinstance(call["input"], fx.Node):
        return None
    if node.target is F.batch_norm:
        affine = "weight" in held and "bias" in held
        if call.get("training") is not False or len(held) != (4 if affine else 2) or "running_mean" not in held:
            return None
        kind = _NORMS[node.meta["example"].ndim]
        layer: nn.Module = kind(len(held["running_mean"]), affine=affine, **options)
    elif "weight" not in held:
        return None
    else:
        outputs, inputs, *kernel = held["weight"].shape
        more: dict[str, Any] = {"bias": "bias" in held, "device": "meta"}
        if node.target is F.linear:
            layer = nn.Linear(inputs, outputs, **more)
        else:
            inputs *= options.get("groups", 1)
            layer = _CONVOLUTIONS[node.target](inputs, outputs, tuple(kernel), **options, **more)  # type: ignore[index]
    for name, tensor in held.items():
        parameter = name in ("weight", "bias") and not isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)
    return layer.eval()
