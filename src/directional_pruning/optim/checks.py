"""Bad arguments, named in one line with their value."""

from typing import Any

from torch import Tensor

__all__ = ["check_hyperparameters", "label"]


def check_hyperparameters(group: dict[str, Any]) -> None:
    """Raise the one line that names the bad argument and its value; written so that NaN fails too."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"invalid lr: a tensor of shape {tuple(lr.shape)} (must have one element)")
    for name, valid, rule in (
        ("lr", lambda x: 0 <= x < float("inf"), ">= 0 and finite"),
        ("c", lambda x: 0 <= x < float("inf"), ">= 0 and finite"),
        ("mu", lambda x: 0 < x <= 1, "in (0, 1]"),
        ("momentum", lambda x: 0 <= x < float("inf"), ">= 0 and finite"),
        ("weight_decay", lambda x: 0 <= x < float("inf"), ">= 0 and finite"),
    ):
        if not valid(group[name]):
            raise ValueError(f"invalid {name}: {group[name]} (must be {rule})")
    if group["nesterov"] and group["momentum"] <= 0:
        raise ValueError(f"invalid nesterov: True (needs momentum > 0, which is {group['momentum']})")


def label(group: dict[str, Any], i: int) -> str:
    """The parameter's name where the user gave names, else its place and shape."""
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of its group, shape {tuple(group['params'][i].shape)},"
