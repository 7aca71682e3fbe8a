"""Under a target the gradients of weights that are zero count less: scale them before another optimizer steps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..tensors import local_tensor
from . import kernels
from .target import law_of
from .threshold import scale_where_zero

__all__ = ["scale_gradients_of_zeros"]


@torch.no_grad()
def scale_gradients_of_zeros(groups: Iterable[dict[str, Any]], states: Any, *, counter: str) -> None:
    """Multiply, in place, the gradients of weights that are zero by the factor of their group's target.

    Args:
        groups: parameter groups.
        states: the optimizer's state: ``"dual"`` and ``"threshold"`` of each parameter that is pruned.
        counter: the name in it of the number of updates.
    """
    for group in groups:
        if group["target"] is None or (factor := law_of(group).gradient_of_zeros) == 1:
            continue
        rows = []
        for p in group["params"]:
            state = states.get(p, {})
            if p.grad is None or "dual" not in state:
                continue
            v, g = local_tensor(state["dual"]), state["threshold"]
            if p.grad.layout is not torch.strided:
                p.grad = p.grad * scale_where_zero(torch.ones_like(v, dtype=p.dtype), v, g.to(v.device), factor)
            else:
                rows.append((local_tensor(p), _local_gradient(p), v, g, state[counter]))
        rest = kernels.scale_gradients(*zip(*rows, strict=True), factor=factor) if rows else ()
        for _, grad, v, g, _ in (rows[i] for i in rest):
            on_host = g.is_cpu and not group.get("capturable")
            grad.copy_(scale_where_zero(grad, v, g.item() if on_host else g, factor))


def _local_gradient(p: Tensor) -> Tensor:
    """The gradient, of a DTensor the local shard of it, with the memory of ``p.grad``."""
    grad: Any = p.grad
    placements = getattr(p, "placements", None)
    if placements is not None and grad.placements != placements:  # partial sums, as tensor parallelism may leave them
        p.grad = grad = grad.redistribute(placements=placements)
    return local_tensor(grad)
