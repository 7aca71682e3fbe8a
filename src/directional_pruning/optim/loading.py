"""Load an optimizer's state as it was saved: in its precision, and not in part."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..caller import warn_caller
from .checks import check as check_numbers
from .checks import label

__all__ = ["load_uncast"]


def load_uncast(
    optimizer: Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    *,
    buffers: dict[str, str],
    scalars: dict[str, torch.dtype],
    check: Callable[[dict[str, Any]], None],
) -> None:
    """Call ``load(state_dict)`` and then put tensors in as they were saved.

    torch casts every state tensor but ``step`` to the parameter's dtype, which would round a float32 dual to bfloat16.

    Args:
        load: ``Optimizer.load_state_dict``, bound to ``optimizer``.
        buffers: state tensors of the parameter's shape that keep their saved dtype, each with the option that needs it
            where it is not 0.
        scalars: state scalars that stay on the CPU, with their dtype.
        check: called with each saved parameter group; raises ValueError for one that cannot be used.
    """
    saved: dict[Tensor, dict[str, Any]] = {}
    missing: list[str] = []
    has_stepped = bool(optimizer.state) or "_checked" in optimizer.__dict__

    # Runs after the user's hooks and sees the state as they left it.
    def keep(_: Optimizer, final: dict[str, Any]) -> dict[str, Any]:
        if lacking := [key for key in ("state", "param_groups") if key not in final]:
            raise ValueError(f"not a state dict of an optimizer: it has no {lacking[0]!r}")
        _check_order(final["param_groups"], optimizer.param_groups)
        # A checkpoint that was flattened gives {} for what it does not have.
        states = {i: _without_empty(state) for i, state in final["state"].items()}
        for group, current in zip(final["param_groups"], optimizer.param_groups):
            check(group)
            if "target_updates" in group:
                check_numbers(group, ["target_updates"])
            for i, (saved_id, p) in enumerate(zip(group["params"], current["params"])):
                saved[p] = states.get(saved_id, {})
                for key, option in buffers.items():
                    if saved[p].get(key) is not None:
                        _check_fit(key, saved[p][key], p, label(current, i))
                    # Distributed checkpoints read only what the optimizer has, and this one had no use for it yet.
                    elif has_stepped and p.requires_grad and group.get(option, 0) > 0 and not current.get(option, 0):
                        missing.append(f"{key} of {label(current, i)} (its {option} is {group[option]})")
                if "dual" in saved[p] and (lost := [key for key in scalars if key not in saved[p]]):
                    raise ValueError(f"{label(current, i)} has a saved dual and no saved {lost[0]}")
                for key in scalars:
                    # A threshold that is NaN would make every weight zero.
                    if saved[p].get(key) is not None and not 0 <= float(saved[p][key]) < math.inf:
                        value = float(saved[p][key])
                        raise ValueError(f"{label(current, i)} has a saved {key} of {value} (must be >= 0 and finite)")
        return {**final, "state": states}

    # Runs before the user's hooks.
    def restore(_: Optimizer) -> None:
        for p, state in saved.items():
            own = optimizer.state[p] if state else {}
            for key, value in state.items():
                if key in buffers and value is not None:
                    own[key] = value.to(p.device)
                elif key in scalars:
                    own[key] = torch.as_tensor(value, dtype=scalars[key], device="cpu")
                # A base's scalars, as the mu_product of NAdam.
                elif isinstance(value, Tensor) and value.ndim == 0 < p.ndim and own[key].dtype != value.dtype:
                    own[key] = value.to(own[key].device)

    handles = (
        optimizer.register_load_state_dict_pre_hook(keep),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        load(state_dict)
    finally:
        for handle in handles:
            handle.remove()
    if missing:
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        warn_caller(
            f"not loaded: {missing[0]}{others}: it starts anew (if the checkpoint has it, set c and momentum as they "
            "were saved before get_state_dict)"
        )


def _check_order(saved: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
    """Refuse a state of the same parameters in another order: torch gives the states out by their order."""
    before, now = ([name for group in each for name in group.get("param_names", ())] for each in (saved, groups))
    if before != now and sorted(before) == sorted(now):
        old, new = next(pair for pair in zip(before, now) if pair[0] != pair[1])
        raise ValueError(f"{new!r} is in the place of the saved {old!r} (give the parameters in the saved order)")


def _without_empty(state: Any) -> Any:
    return {key: value for key, value in state.items() if not (isinstance(value, dict) and not value)}


def _check_fit(key: str, value: Tensor, p: Tensor, name: str) -> None:
    if value.shape != p.shape:
        raise ValueError(f"{name} does not fit its saved {key} of shape {tuple(value.shape)}")
    if getattr(value, "placements", None) != getattr(p, "placements", None):
        raise ValueError(f"{name} is sharded otherwise than its saved {key}")
