"""Bad arguments, named in one line with their value."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_directional", "check_pruning", "check_sgd", "label"]

# Rates and strengths become float32 scalars in the update.
_LARGEST = torch.finfo(torch.float32).max

# Name -> (is this value good, in this group; what it must be). Written so that NaN fails.
_Rules = dict[str, tuple[Callable[[Any, dict[str, Any]], Any], str]]
_PRUNING: _Rules = {
    "c": (lambda x, _: 0 <= x <= _LARGEST, ">= 0 and finite"),
    "mu": (lambda x, _: 0 < x <= 1, "in (0, 1]"),
}
_POWER: _Rules = {"power": (lambda x, _: 1 <= x <= _LARGEST, ">= 1 and finite")}
_SGD: _Rules = {
    "lr": (lambda x, _: 0 <= x <= _LARGEST, ">= 0 and finite"),
    "momentum": (lambda x, _: 0 <= x <= _LARGEST, ">= 0 and finite"),
    "weight_decay": (lambda x, _: 0 <= x <= _LARGEST, ">= 0 and finite"),
    "nesterov": (lambda x, group: not x or group["momentum"] > 0, "False where momentum is 0"),
    "foreach": (lambda x, _: x in (None, True, False), "None, True or False"),
    "fused": (
        lambda x, group: x in (None, True, False) and not (x and group["foreach"]),
        "None, True or False, and not True where foreach is",
    ),
    "capturable": (lambda x, _: x in (True, False), "True or False"),
}


def check_pruning(group: dict[str, Any]) -> None:
    """Raise ValueError naming c or mu and its value."""
    _check(group, _PRUNING)


def check_directional(group: dict[str, Any]) -> None:
    """Raise ValueError naming c, mu or power and its value."""
    _check(group, _PRUNING | _POWER)


def check_sgd(group: dict[str, Any]) -> None:
    """Raise ValueError naming the first bad argument that GRDA shares with SGD, and its value."""
    _check(group, _SGD)


def _check(group: dict[str, Any], rules: _Rules) -> None:
    for name, (good, rule) in rules.items():
        if name not in group:
            raise ValueError(f"a parameter group has no {name!r}: not a state dict of this optimizer")
        value = group[name]
        try:
            if good(value, group):
                continue
        except (TypeError, RuntimeError):  # no number, or a tensor of several
            pass
        several = isinstance(value, Tensor) and value.numel() != 1
        shown = f"a tensor of shape {tuple(value.shape)}" if several else repr(value)
        raise ValueError(f"invalid {name}: {shown} (must be {rule})")


def label(group: dict[str, Any], i: int) -> str:
    """The parameter's name where the user gave names, else its place in its group and its shape."""
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of its group, shape {tuple(group['params'][i].shape)},"
