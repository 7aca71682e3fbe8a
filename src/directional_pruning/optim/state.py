"""Loading an optimizer's state without rounding it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import label

__all__ = ["load_uncast"]


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
        for group, own in zip(final["param_groups"], optimizer.param_groups):
            check(group)
            for i, (saved_id, p) in enumerate(zip(group["params"], own["params"])):
                saved[p] = final["state"].get(saved_id, {})
                for key in buffers:
                    value = saved[p].get(key)
                    if value is not None and value.shape != p.shape:
                        raise ValueError(f"{label(own, i)} does not fit its saved {key} of shape {tuple(value.shape)}")

    # Runs before the user's hooks.
    def restore(_: Optimizer) -> None:
        for p, state in saved.items():
            for key in buffers:
                if state.get(key) is not None:
                    optimizer.state[p][key] = state[key].to(p.device)
            for key, dtype in scalars.items():
                if key in state:
                    optimizer.state[p][key] = state[key].to("cpu", dtype)

    handles = (
        optimizer.register_load_state_dict_pre_hook(keep),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        load(state_dict)
    finally:
        for handle in handles:
            handle.remove()
