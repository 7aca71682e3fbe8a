"""An optimizer's groups and state: the learning rate, the first dual, checked groups, loading without rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import label

__all__ = ["add_checked_group", "first_dual", "load_uncast", "place", "resolve_rate"]


def resolve_rate(lr: float | Tensor, *, on_device: bool) -> float | Tensor:
    """The learning rate as the update takes it: a number, or a tensor where the host does not read it."""
    if torch.compiler.is_compiling():
        # A number would be a constant of the compiled code, which each rate of a schedule would compile again.
        return lr if isinstance(lr, Tensor) else torch.ones((), dtype=torch.float64) * lr
    if isinstance(lr, Tensor) and (lr.is_cpu or not on_device):
        return float(lr)
    return lr


def first_dual(w: Tensor) -> Tensor:
    """A copy of the weights, which up to the first threshold are their own dual; float32 for half precision."""
    half = w.dtype in (torch.bfloat16, torch.float16)
    return w.detach().to(torch.float32 if half else w.dtype, copy=True)


def place(state: dict[str, Any], keys: tuple[str, ...], device: torch.device) -> None:
    """Move the named scalars of a parameter's state, where they are elsewhere."""
    for key in keys:
        if key in state and state[key].device != device:
            state[key] = state[key].to(device)


def add_checked_group(
    optimizer: Optimizer,
    add: Callable[[dict[str, Any]], None],
    group: dict[str, Any],
    refusal: Callable[[Tensor, dict[str, Any]], str | None],
) -> None:
    """Call ``add(group)``, and take the group out again where a parameter is refused.

    Raises:
        ValueError: with the text that ``refusal(parameter, group)`` returns, and the parameter's name.
    """
    add(group)
    added = optimizer.param_groups[-1]
    for i, p in enumerate(added["params"]):
        if problem := refusal(p, added):
            optimizer.param_groups.pop()
            raise ValueError(f"{problem}, but {label(added, i)} is {p.dtype} on {p.device}")


def load_uncast(
    optimizer: Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    *,
    buffers: tuple[str, ...],
    scalars: dict[str, torch.dtype],
    check: Callable[[dict[str, Any]], None],
) -> None:
    """Call ``load(state_dict)`` and then put the named tensors in as they were saved.

    torch casts every state tensor but ``step`` to the parameter's dtype, which would round a float32 dual to bfloat16.

    Args:
        load: ``Optimizer.load_state_dict``, bound to ``optimizer``.
        buffers: state tensors of the parameter's shape that keep their saved dtype.
        scalars: state scalars that stay on the CPU, with their dtype.
        check: called with each saved parameter group; raises ValueError for one that cannot be used.
    """
    saved: dict[Tensor, dict[str, Any]] = {}

    # Runs after the user's hooks and sees the state as they left it.
    def keep(_: Optimizer, final: dict[str, Any]) -> None:
        for group, current in zip(final["param_groups"], optimizer.param_groups):
            check(group)
            for i, (saved_id, p) in enumerate(zip(group["params"], current["params"])):
                saved[p] = final["state"].get(saved_id, {})
                for key in buffers:
                    value = saved[p].get(key)
                    if value is None:
                        continue
                    if value.shape != p.shape:
                        raise ValueError(
                            f"{label(current, i)} does not fit its saved {key} of shape {tuple(value.shape)}"
                        )
                    if getattr(value, "placements", None) != getattr(p, "placements", None):
                        raise ValueError(f"{label(current, i)} is sharded otherwise than its saved {key}")

    # Runs before the user's hooks.
    def restore(_: Optimizer) -> None:
        for p, state in saved.items():
            for key in buffers:
                if state.get(key) is not None:
                    optimizer.state[p][key] = state[key].to(p.device)
            for key, dtype in scalars.items():
                if key in state:
                    optimizer.state[p][key] = torch.as_tensor(state[key], dtype=dtype, device="cpu")

    handles = (
        optimizer.register_load_state_dict_pre_hook(keep),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        load(state_dict)
    finally:
        for handle in handles:
            handle.remove()
