"""When training leaves the numbers: at which step, and in which layer it began."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..tensors import local_tensor
from .distributed import ALONE, Processes

__all__ = ["NonFiniteError", "blame", "first_non_finite"]


class NonFiniteError(ArithmeticError):
    """The loss or a weight became NaN or infinite; the message names step, epoch and layer."""


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first that holds NaN or infinity, of what lies on this process."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local_tensor(tensor)).all()):
            return name
    return None


@torch.no_grad()
def blame(model: nn.Module, inputs: Tensor, processes: Processes = ALONE) -> str:
    """Where a non-finite loss comes from: the input, a weight, or the first layer whose output is not finite.

    All processes have to call, and go through the same stages: where weights are sharded, a pass gathers them.
    """
    if any(processes.gather(not bool(torch.isfinite(inputs).all()))):
        return "the input is not finite"
    # Not the buffers: the pass that failed has already spoilt the running averages behind the culprit.
    names = processes.gather(first_non_finite(dict(model.named_parameters())))
    if (name := next(filter(None, names), None)) is not None:
        return f"{name} is not finite"
    culprits: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                culprits.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    layer = next(filter(None, processes.gather(next(iter(culprits), None))), None)
    return f"the output of layer {layer} is not finite" if layer else "the loss itself overflowed"
