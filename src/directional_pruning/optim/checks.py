"""Validate hyper-parameters: a bad one raises ValueError with its name and value, in one line."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["DIRECTIONAL", "GRDA", "PRUNING", "check", "check_rate", "label"]

PRUNING = ("c", "mu")
GRDA = ("lr", "momentum", "weight_decay", "nesterov", "foreach", "fused", "capturable", *PRUNING)
DIRECTIONAL = (*PRUNING, "power")

# Rates and strengths become float32 scalars in the update.
_LARGEST = torch.finfo(torch.float32).max


def check(group: dict[str, Any], names: Iterable[str]) -> None:
    """Check the named options of a parameter group.

    Raises:
        ValueError: for the first that is missing or out of range, naming it and its value.
    """
    for name in names:
        if name not in group:
            raise ValueError(f"a parameter group has no {name!r}: not a state dict of this optimizer")
        value = group[name]
        try:
            valid, rule = _rule(name, value, group)
        except (TypeError, RuntimeError):  # not a number, or a tensor of several
            valid, rule = False, _rule(name, 0, group)[1]
        if not valid:
            several = isinstance(value, Tensor) and value.numel() != 1
            shown = f"a tensor of shape {tuple(value.shape)}" if several else repr(value)
            raise ValueError(f"invalid {name}: {shown} (must be {rule})")


def _rule(name: str, x: Any, group: dict[str, Any]) -> tuple[Any, str]:
    """Whether the value is valid in this group, and what it must be. NaN fails every comparison."""
    match name:
        case "mu":
            return 0 < x <= 1, "in (0, 1]"
        case "power":
            return 1 <= x <= _LARGEST, ">= 1 and finite"
        case "nesterov":
            return not x or group["momentum"] > 0, "False where momentum is 0"
        case "foreach":
            return x in (None, True, False), "None, True or False"
        case "fused":
            valid = x in (None, True, False) and not (x and group["foreach"])
            return valid, "None, True or False, and not True where foreach is"
        case "capturable":
            return x in (True, False), "True or False"
        case _:
            return 0 <= x <= _LARGEST, ">= 0 and finite"


def check_rate(lr: float | Tensor) -> None:
    """Raise ValueError for a rate that a schedule made negative or NaN, where the host reads it."""
    if isinstance(lr, Tensor) and (not lr.is_cpu or torch.compiler.is_compiling()):
        return
    if not lr >= 0:
        raise ValueError(f"invalid lr: {float(lr)} (must be >= 0)")


def label(group: dict[str, Any], i: int) -> str:
    """The parameter's name where the user gave names, else its place in its group and its shape."""
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of its group, shape {tuple(group['params'][i].shape)},"
