"""Validate hyper-parameters: a bad one raises ValueError with its name and value, in one line."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..tensors import local_tensor
from . import kernels
from .target import target_of

__all__ = ["DIRECTIONAL", "GRDA", "PRUNING", "check", "label", "refusal_of_directional", "refusal_of_grda"]

PRUNING = ("c", "mu")
GRDA = ("lr", "momentum", "weight_decay", "nesterov", "maximize", "foreach", "fused", "capturable", "target", *PRUNING)
DIRECTIONAL = (*PRUNING, "power", "target")

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
            valid = bool(valid)
        except (TypeError, RuntimeError, ValueError):  # not a number, or a tensor or array of several
            if name == "target":
                raise
            valid, rule = False, _rule(name, 0, group)[1]
        if not valid:
            shown = repr(value)
            if isinstance(value, Tensor):
                shown = f"{value.item()}" if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
            elif getattr(value, "shape", ()):
                shown = f"an array of shape {value.shape}"
            raise ValueError(f"invalid {name}: {shown} (must be {rule})")


def _rule(name: str, x: Any, group: dict[str, Any]) -> tuple[Any, str]:
    """Whether the value is valid in this group, and what it must be. NaN fails every comparison."""
    match name:
        case "mu":
            return 0 < x <= 1, "in (0, 1]"
        case "power":
            return 1 <= x <= _LARGEST, ">= 1 and finite"
        case "nesterov":
            if x not in (True, False):
                return False, "True or False"
            return not x or group["momentum"] > 0, "False where momentum is 0"
        case "foreach":
            return x in (None, True, False), "None, True or False"
        case "fused":
            valid = x in (None, True, False) and not (x and group["foreach"])
            return valid, "None, True or False, and not True where foreach is"
        case "capturable" | "maximize":
            return x in (True, False), "True or False"
        case "target":
            if x is None or not isinstance(x, tuple):
                return x is None, "a Target, such as Target(0.9, steps=1000)"
            # The defaults have no parameters to count for; those of a group that is added are a list only then.
            params, counts = group.get("params"), group.get("multiply_adds")
            if target_of(x).of == "weights" or not isinstance(params, list) or not group["c"] > 0:
                return True, ""
            counted = isinstance(counts, list | tuple) and len(counts) == len(params)
            counted = counted and all(isinstance(n, int | float) and 0 <= n < math.inf for n in counts)
            return counted, "of weights, or get counts by prunable_groups(model, multiply_adds=...)"
        case "target_updates":
            return 0 <= x < math.inf and x == int(x), "a whole number >= 0"
        case _:
            return 0 <= x <= _LARGEST, ">= 0 and finite"


def label(group: dict[str, Any], i: int) -> str:
    """The parameter's name where the user gave names, else its place in its group and its shape."""
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of its group, shape {tuple(group['params'][i].shape)},"


def refusal_of_grda(p: Tensor, group: dict[str, Any]) -> str | None:
    """What this parameter would have to be, if GRDA cannot train it."""
    if p.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        return "GRDA needs real floating-point parameters of 16, 32 or 64 bits"
    if p.is_neg():
        return "GRDA needs parameters that are not negated views, as x.conj().imag is"
    if group["fused"] and not kernels.available(cuda_too=p.is_cuda):
        name = "Triton" if kernels.available() else "the compiled kernel"
        return f"fused=True needs {name}, which is not installed"
    if group["fused"] and not kernels.can_update(local_tensor(p)):
        types = "float32, bfloat16 or float16" if p.is_cuda else "float32 or bfloat16"
        return f"fused=True needs densely laid out and aligned parameters of {types} on the CPU or CUDA"
    return None


def refusal_of_directional(p: Tensor, group: dict[str, Any]) -> str | None:
    """What this parameter would have to be, if Directional cannot train it."""
    if not p.is_floating_point():
        return "Directional needs real floating-point parameters"
    if p.is_neg():
        return "Directional needs parameters that are not negated views, as x.conj().imag is"
    return None
