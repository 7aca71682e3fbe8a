"""Values of parameter groups: NumPy's numbers become Python's, and a value that has changed is checked at the step."""

from collections.abc import Callable
from dataclasses import astuple
from decimal import Decimal
from fractions import Fraction
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import checks
from .checks import check
from .target import Target

__all__ = ["check_changed", "check_directional", "check_grda", "make_plain"]

_PLAIN = (float, int, bool, str, type(None))
_PARAMETERS = ("params", "param_names")


def make_plain(group: dict[str, Any]) -> None:
    """Replace numbers of NumPy and of the standard library by Python's, which ``torch.load(weights_only=True)`` reads.

    >>> group = {"lr": Fraction(1, 4), "betas": (0.9, Decimal("0.5")), "foreach": None}
    >>> make_plain(group)
    >>> group
    {'lr': 0.25, 'betas': (0.9, 0.5), 'foreach': None}
    """
    for key, value in group.items():
        if type(value) not in _PLAIN and key not in _PARAMETERS:
            group[key] = _plain(value)


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, Target):
        return _plain(astuple(value))
    if type(value) in (tuple, list):
        return type(value)(_plain(item) for item in value)
    is_number = isinstance(value, Fraction | Decimal)
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):  # an array or a scalar of NumPy, not imported here
        value = value.item()
        is_number = type(value) not in _PLAIN and hasattr(value, "__float__")  # a longdouble stays one
    return float(value) if is_number else value


def check_changed(optimizer: Optimizer, check_group: Callable[[dict[str, Any]], None]) -> None:
    """Make plain and check the groups of which a value is not the object that was checked last.

    To compare objects takes less than a microsecond a group. A tensor on the CPU is read at every step, because it may
    change in place. One on a device is never read.

    Raises:
        ValueError: for a value out of range, as the constructor does.
    """
    if torch.compiler.is_compiling():
        for group in optimizer.param_groups:
            check_group(group)
        return
    checked: list[tuple[Any, ...]] = optimizer.__dict__.setdefault("_checked", [])
    groups = optimizer.param_groups
    del checked[len(groups) :]
    for i, group in enumerate(groups):
        if i == len(checked):
            checked.append(())
        compared = group.values() if group.get("target") is None else _without_time(group)
        if len(checked[i]) == len(compared) and all(map(is_, compared, checked[i])):
            continue
        checked[i] = ()
        make_plain(group)
        check_group(group)
        values = tuple(group.values() if group["target"] is None else _without_time(group))
        if not any(isinstance(value, Tensor) and value.is_cpu for value in values):
            checked[i] = values


def _without_time(group: dict[str, Any]) -> list[Any]:
    """The values of a group but for the count of its updates, which each step changes."""
    return [value for key, value in group.items() if key != "target_updates"]


def check_grda(group: dict[str, Any]) -> None:
    """Check all that the host may read of a group of GRDA."""
    check(group, [name for name in checks.GRDA if _may_be_read(group.get(name))])


def check_directional(group: dict[str, Any], states: Any) -> None:
    """Check all that the host may read of a group of Directional; the rate of a group without duals is the base's."""
    has_dual = any("dual" in states.get(p, {}) for p in group["params"])
    uses_rate = has_dual or not isinstance(group.get("c"), float | int) or group["c"] > 0
    names = (*checks.DIRECTIONAL, "lr") if uses_rate else checks.DIRECTIONAL
    check(group, [name for name in names if _may_be_read(group.get(name))])
    # The base checks them in its constructor only. None means that this base has no such option.
    own = [name for name in ("momentum", "weight_decay") if group.get(name) is not None]
    check(group, [name for name in own if _may_be_read(group[name])])
    for name, value in group.items():
        if name not in _PARAMETERS and any(x != x for x in _numbers(value)):
            raise ValueError(f"invalid {name}: {value!r} (must not be NaN)")


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(x for x in (value if type(value) in (tuple, list) else (value,)) if type(x) is float)


def _may_be_read(value: Any) -> bool:
    return not isinstance(value, Tensor) or (value.is_cpu and not torch.compiler.is_compiling())
