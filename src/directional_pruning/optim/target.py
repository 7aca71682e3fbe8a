"""A wanted share of zeros: how large it is when, and how the step makes zeros of weights and weights of zeros."""

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Law", "Target", "has_target", "law_of", "target_of"]


@dataclass(frozen=True)
class Target:
    r"""The share of zeros to end with, when they come, and which weights share a threshold.

    .. math:: S(t) = S \left(1 - \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3\right) \text{ from } t_0
        \text{ to } t_1, \qquad \#\{|v_i| \le g(t)\} = S(t) \cdot \#v

    t counts updates, ``t0 = start * steps`` and ``t1 = end * steps``; before t0 the threshold g is 0. From t1 on the
    zeros are counted after every update, and g is set where the share has left S by 0.005 points; at the last step it
    is exact. So the share is S whenever the training stops.

    A target describes the whole step, so it also says how the dual variables v become weights, and what the weights
    that are zero learn:

    .. math:: w_i = v_i \left(1 - (g / |v_i|)^p\right) \text{ where } |v_i| > g, \text{ else } 0

    t is the number of updates of the whole optimizer under this target, so parameters that are added or unfrozen later
    end with the same share. A weight that has no gradient for a while stays in the share, and is cut under the new
    threshold too. A group with ``lr = 0`` is left out until its rate rises.

    Half-precision weights under ``Directional`` have few different magnitudes: a base rounds its small steps away. Then
    the share may be up to 0.1 points off, which a warning says.

    Under a target the group's own ``c``, ``mu`` and ``power`` do not count; of ``c`` only whether it is 0, which means
    that the group is not pruned.

    Args:
        sparsity: S, the share of zeros among the pruned weights, from 0 to below 1.
        steps: updates of the whole training.
        start, end: when the zeros begin and when all of them are there, as parts of ``steps``.
        every: updates between two thresholds while the share rises.
        scope: ``"global"``: one threshold for all pruned weights, so that each layer gets the zeros it can bear;
            ``"group"``: one for each parameter group; ``"layer"``: one for each parameter.
        power: p above, >= 1: a number, or the first and the last. From the first to the last it doubles, at equal parts
            of the time from t0 to t1. 1 is soft-thresholding; the larger it is, the less a survivor shrinks; with
            ``math.inf`` survivors are their dual. 1, 2, 4 and so on up to 64 and ``math.inf`` are fast. With
            ``capturable`` it stays the first, since the host does not know t.
        gradient_of_zeros: factor in [0, 1] on the gradient of the weights that are zero, once g > 0. The smaller it is,
            the fewer of them return. ``Directional`` applies it to ``p.grad`` in place, before its base moves.
        of: ``"weights"``: S is a share of the weights; ``"macs"``: of their multiply-adds, so each weight counts as
            often as its layer uses it. The groups need counts: ``prunable_groups(model, multiply_adds=...)``.

    Raises:
        ValueError: for a value out of range, naming it.

    >>> target = Target(0.9, steps=1000)
    >>> [round(target.share(t), 3) for t in (50, 100, 400, 750, 1000)]
    [0.0, 0.179, 0.788, 0.9, 0.9]
    """

    sparsity: float
    steps: int
    _: KW_ONLY
    start: float = 0.05
    end: float = 0.75
    every: int = 10
    scope: str = "global"
    power: float | tuple[float, float] = (8, 64)
    gradient_of_zeros: float = 0.5
    of: str = "weights"

    def __post_init__(self) -> None:
        for name, valid, rule in (
            ("sparsity", lambda x: 0 <= x < 1, "a share from 0 to below 1"),
            ("steps", lambda x: x >= 1 and x == int(x), "a whole number of updates, at least 1"),
            ("start", lambda x: 0 <= x < 1, "a part of the steps, from 0 to below 1"),
            ("end", lambda x: self.start < x <= 1, "a part of the steps, above start, at most 1"),
            ("every", lambda x: x >= 1 and x == int(x), "a whole number of updates, at least 1"),
            ("power", _is_power, "a number, at least 1, or two of them that rise"),
            ("gradient_of_zeros", lambda x: 0 <= x <= 1, "a factor from 0 to 1"),
            ("of", lambda x: x in ("weights", "macs"), "weights or macs"),
            ("scope", lambda x: x in ("global", "group", "layer"), "global, group or layer"),
        ):
            value = getattr(self, name)
            try:
                if valid(value):
                    continue
            except (TypeError, ValueError, OverflowError):
                pass
            raise ValueError(f"invalid {name}: {value!r} (must be {rule})")

    def share(self, t: float) -> float:
        """S(t), the wanted share of zeros after t updates."""
        return self.sparsity * (1 - (1 - self._risen(t)) ** 3)

    def power_at(self, t: float) -> float:
        """The power p of a cut after t updates.

        >>> [Target(0.9, steps=100, start=0.1, end=0.7).power_at(t) for t in (0, 29, 30, 50, 70, 100)]
        [8, 8, 16, 32, 64, 64]
        >>> [Target(0.9, steps=100, power=(4, 6)).power_at(t) for t in (0, 74, 75)]
        [4, 4, 6]
        """
        if not isinstance(self.power, tuple):
            return self.power
        first, last = self.power
        if t >= self.end * self.steps:
            return last
        doublings = math.log2(last / first) if last < math.inf else 0.0
        # 1e-9, so that a rounded quotient does not delay a doubling.
        return first * 2 ** int(self._risen(t) * doublings + 1e-9)

    def _risen(self, t: float) -> float:
        """The part of the time from t0 to t1 that has passed, from 0 to 1."""
        return min(max((t / self.steps - self.start) / (self.end - self.start), 0.0), 1.0)

    def share_on_device(self, t: Tensor) -> Tensor:
        """:meth:`share`, without the host reading t."""
        left = 1 - (t.to(torch.float64) / self.steps - self.start) / (self.end - self.start)
        return self.sparsity * (1 - left.clamp(0.0, 1.0) ** 3)

    def tolerance(self, t: int) -> float:
        """How far the share of zeros may be from S(t): once it is held, a threshold moves only where it has to."""
        return 5e-5 if t >= self.end * self.steps and t != self.steps else 0.0

    def is_due(self, t: int) -> bool:
        """Whether the threshold is set after update t."""
        return t >= self.end * self.steps or t % self.every == 0


def _is_power(x: Any) -> bool:
    if not isinstance(x, tuple):
        return x >= 1
    first, last = x
    return 1 <= first <= last and first < math.inf


class Law(NamedTuple):
    """What a step does beside moving the dual variables."""

    c: float
    """Strength of the growth of the threshold; 0 where a target sets the threshold after the step."""
    power: float = 1
    """Of the cut; ``math.inf`` is the hard cut."""
    gradient_of_zeros: float = 1.0
    """Factor on the gradient of the weights that are zero."""


@lru_cache(maxsize=64)
def target_of(values: tuple[Any, ...]) -> Target:
    """The target that a parameter group holds as a plain tuple, which ``torch.load(weights_only=True)`` reads.

    >>> from dataclasses import astuple
    >>> target_of(astuple(Target(0.9, steps=10, every=2))).every
    2
    """
    names = [field.name for field in fields(Target)]
    if len(values) != len(names):
        raise ValueError(f"invalid target: {values} (must be a Target, such as Target(0.9, steps=1000))")
    return Target(**dict(zip(names, values, strict=True)))


def law_of(group: dict[str, Any]) -> Law:
    """What a step of this group does: by its own options, or as its target says."""
    if group["target"] is None:
        return Law(group["c"], group.get("power", 1))
    target = target_of(group["target"])
    return Law(0.0, group.get("cut_power", target.power_at(0)), target.gradient_of_zeros)


def has_target(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether a group has a target."""
    return any(group["target"] is not None for group in groups)
