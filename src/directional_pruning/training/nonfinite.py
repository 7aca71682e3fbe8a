"""Detect NaN and infinity in training, and find the layer where they begin."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..tensors import local_tensor
from .distributed import SINGLE_PROCESS, Processes

__all__ = ["NonFiniteError", "blame", "first_non_finite"]


class NonFiniteError(ArithmeticError):
    """The loss or a weight became NaN or infinite; the message names step, epoch and layer."""


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor whose local shard holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local_tensor(tensor)).all()):
            return name
    return None


@torch.no_grad()
def blame(model: nn.Module, inputs: Tensor, processes: Processes = SINGLE_PROCESS) -> str:
    """Where a non-finite loss comes from: the input, a weight, or the first layer whose output is not finite.

    All processes have to call, because a forward pass gathers weights that are sharded.
    """
    if any(processes.all_gather(not bool(torch.isfinite(inputs).all()))):
        return "the input is not finite"
    # Not the buffers: the failed pass has already spoilt the running averages after the layer at fault.
    names = processes.all_gather(first_non_finite(dict(model.named_parameters())))
    if (name := next(filter(None, names), None)) is not None:
        return f"{name} is not finite"
    bad_layers: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad_layers.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    layer = next(filter(None, processes.all_gather(next(iter(bad_layers), None))), None)
    return f"the output of layer {layer} is not finite" if layer else "the loss itself overflowed"
