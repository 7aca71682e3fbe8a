"""Bad arguments, named in one line with their value."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_hyperparameters", "label"]

# Rates and strengths become float32 scalars in the update.
_LARGEST = torch.finfo(torch.float32).max


def check_hyperparameters(group: dict[str, Any]) -> None:
    """Raise ValueError naming the first bad argument; the comparisons are written so that NaN fails too."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"invalid lr: a tensor of shape {tuple(lr.shape)} (must have one element)")
    for name, valid, rule in (
        ("lr", lambda x: 0 <= x <= _LARGEST, ">= 0 and finite"),
        ("c", lambda x: 0 <= x <= _LARGEST, ">= 0 and finite"),
        ("mu", lambda x: 0 < x <= 1, "in (0, 1]"),
        ("momentum", lambda x: 0 <= x <= _LARGEST, ">= 0 and finite"),
        ("weight_decay", lambda x: 0 <= x <= _LARGEST, ">= 0 and finite"),
        ("nesterov", lambda x: not x or group["momentum"] > 0, "False where momentum is 0"),
        ("fused", lambda x: x in (None, True, False), "None, True or False"),
    ):
        try:
            good = bool(valid(group[name]))
        except (TypeError, RuntimeError):
            good = False
        if not good:
            raise ValueError(f"invalid {name}: {group[name]!r} (must be {rule})")


def label(group: dict[str, Any], i: int) -> str:
    """The parameter's name where the user gave names, else its place in its group and its shape."""
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of its group, shape {tuple(group['params'][i].shape)},"
