"""An optimizer's groups and state: the learning rate, the state of a first update, groups that are added."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import label

__all__ = ["add_checked_group", "first_state", "place", "resolve_rate", "start_dual", "unmoved_duals"]


def resolve_rate(lr: float | Tensor, *, on_device: bool) -> float | Tensor:
    """The learning rate as the update takes it: a number, or a tensor where the host does not read it."""
    if torch.compiler.is_compiling():
        # A number would be a constant of the compiled code, which each rate of a schedule would compile again.
        return lr if isinstance(lr, Tensor) else torch.ones((), dtype=torch.float64) * lr
    if isinstance(lr, Tensor) and (lr.is_cpu or not on_device):
        return float(lr)
    return lr


def start_dual(w: Tensor, state: dict[str, Any]) -> None:
    """v_0 = w_0, float32 for half precision, and g_0 = 0."""
    half = w.dtype in (torch.bfloat16, torch.float16)
    state["dual"] = w.detach().to(torch.float32 if half else w.dtype, copy=True)
    state["threshold"] = torch.tensor(0.0, dtype=torch.float64)


def first_state(p: Tensor, state: dict[str, Any], pruned: bool, momentum: bool) -> tuple[Any, ...]:
    """Make what the first update of GRDA needs, and what a momentum or pruning needs that was switched on later."""
    if "step" not in state:
        state["step"] = torch.tensor(0.0, dtype=torch.float32)
    if pruned and "dual" not in state:
        start_dual(p, state)
    if momentum:
        like, buffer = state.get("dual", p), state.get("momentum_buffer")
        # A buffer from before there was a dual has the dtype of the parameter.
        buffer = torch.zeros_like(like, requires_grad=False) if buffer is None else buffer.to(like.dtype)
        state["momentum_buffer"] = buffer
    return state["step"], state.get("dual"), state["momentum_buffer"] if momentum else None


def unmoved_duals(optimizer: Any, counter: str) -> set[Tensor]:
    """The parameters with a dual and no update, as after a step at rate 0: their dual still is a copy of the weights.

    The counters are read once after a dual is made or loaded, and again only for the parameters found. Where the host
    must not read them, the set is empty.
    """
    candidates = optimizer._unmoved
    if candidates is None:  # unknown
        groups = (group["params"] for group in optimizer.param_groups if not group.get("capturable"))
        candidates = {p for params in groups for p in params if "dual" in optimizer.state.get(p, {})}
    if candidates:
        candidates = {p for p in candidates if optimizer.state[p][counter].item() == 0}
    optimizer._unmoved = candidates
    return candidates


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

    torch refuses groups with names of parameters beside groups without, so those without get names. In a constructor,
    pairs of name and parameter beside groups without names stay an error, as for every torch optimizer.

    Raises:
        ValueError: with the text that ``refusal(parameter, group)`` returns, and the parameter's name.
    """
    groups = optimizer.param_groups
    named_now = []
    if isinstance(group, dict) and "params" in group:
        named_now = _make_names([*groups, group], with_pairs=not optimizer.__dict__.get("_constructing"))
    count = len(groups)
    try:
        add(group)
        added = optimizer.param_groups[-1]
        for i, p in enumerate(added["params"]):
            if problem := refusal(p, added):
                raise ValueError(f"{problem}, but {label(added, i)} is {p.dtype} on {p.device}")
    except BaseException:
        del optimizer.param_groups[count:]
        for each in named_now:
            del each["param_names"]
        raise


def _make_names(groups: list[dict[str, Any]], *, with_pairs: bool) -> list[dict[str, Any]]:
    """Where only some groups name their parameters, name those of the others, and return these groups."""
    new = groups[-1]
    if not isinstance(new["params"], Tensor | set):
        new["params"] = list(new["params"])
    in_pairs = any(isinstance(p, tuple) for p in new["params"])
    unnamed = [i for i, group in enumerate(groups) if "param_names" not in group and not (group is new and in_pairs)]
    if len(unnamed) == len(groups) or (in_pairs and not with_pairs):
        return []
    for i in unnamed:
        size = 1 if isinstance(groups[i]["params"], Tensor) else len(groups[i]["params"])
        groups[i]["param_names"] = [f"group_{i}.parameter_{j}" for j in range(size)]
    return [groups[i] for i in unnamed]
