"""A wanted share of zeros, and the threshold that gives it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tensors import local_tensor
from .quantile import Magnitudes, magnitude_at, magnitude_at_on_device
from .threshold import cut

__all__ = ["Target", "cut_at_targets", "has_target"]


@dataclass(frozen=True)
class Target:
    r"""The share of zeros to end with, when they come, and which weights share a threshold.

    .. math:: S(t) = S \left(1 - \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3\right) \text{ from } t_0
        \text{ to } t_1, \qquad \#\{|v_i| \le g(t)\} = S(t) \cdot \#v

    t counts updates; ``t0 = start * steps`` and ``t1 = end * steps``. Before t0 the threshold g is 0. From t1 on it is
    set after every update, so the share is S whenever the training stops.

    Args:
        sparsity: S, the share of zeros among the pruned weights, from 0 to below 1.
        steps: updates of the whole training.
        start, end: when the zeros begin and when all of them are there, as parts of ``steps``.
        every: updates between two thresholds while the share rises.
        scope: ``"global"``: one threshold for all pruned weights, so that each layer gets the zeros it can bear;
            ``"group"``: one for each parameter group; ``"layer"``: one for each parameter.

    Raises:
        ValueError: for a value out of range, naming it.

    >>> target = Target(0.9, steps=1000)
    >>> [round(target.share(t), 3) for t in (50, 100, 400, 750, 1000)]
    [0.0, 0.179, 0.788, 0.9, 0.9]
    """

    sparsity: float
    steps: int
    start: float = 0.05
    end: float = 0.75
    every: int = 10
    scope: str = "global"

    def __post_init__(self) -> None:
        for name, valid, rule in (
            ("sparsity", lambda x: 0 <= x < 1, "a share from 0 to below 1"),
            ("steps", lambda x: x >= 1 and x == int(x), "a whole number of updates, at least 1"),
            ("start", lambda x: 0 <= x < 1, "a part of the steps, from 0 to below 1"),
            ("end", lambda x: self.start < x <= 1, "a part of the steps, above start, at most 1"),
            ("every", lambda x: x >= 1 and x == int(x), "a whole number of updates, at least 1"),
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
        left = 1 - (t / self.steps - self.start) / (self.end - self.start)
        return self.sparsity * (1 - min(max(left, 0.0), 1.0) ** 3)

    def share_on_device(self, t: Tensor) -> Tensor:
        """:meth:`share`, without the host reading t."""
        left = 1 - (t.to(torch.float64) / self.steps - self.start) / (self.end - self.start)
        return self.sparsity * (1 - left.clamp(0.0, 1.0) ** 3)

    def is_due(self, t: int) -> bool:
        """Whether the threshold is set after update t."""
        return t >= self.end * self.steps or t % self.every == 0


def has_target(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether a group has a target."""
    return any(group["target"] is not None for group in groups)


class _Row(NamedTuple):
    p: Tensor
    v: Tensor
    g: Tensor
    power: float


def cut_at_targets(groups: Iterable[dict[str, Any]], states: Any, *, counter: str) -> None:
    """Set the thresholds of all groups with a target, and make the weights again from the dual variables.

    Args:
        groups: parameter groups whose ``"target"`` is None or a :class:`Target` as a tuple. Those with a threshold to
            set count one more update in ``"target_updates"``.
        states: the optimizer's state: ``"dual"`` and ``"threshold"`` of each parameter that is pruned.
        counter: the name in it of the number of updates.
    """
    sets: dict[Any, tuple[Target, int | Tensor, list[_Row]]] = {}
    for i, group in enumerate(groups):
        if group["target"] is None or not group["c"] > 0:
            continue
        lr = group["lr"]
        if not (isinstance(lr, Tensor) and not lr.is_cpu) and lr == 0:
            continue  # nothing moves
        group["target_updates"] = t = group.get("target_updates", 0) + 1
        target = Target(*group["target"])
        for j, p in enumerate(group["params"]):
            state = states.get(p, {})
            if "dual" not in state:
                continue
            place = {"global": (), "group": (i,), "layer": (i, j)}[target.scope]
            time = state[counter] if group.get("capturable") else t
            _, _, rows = sets.setdefault((target, *place), (target, time, []))
            rows.append(_Row(p, state["dual"], state["threshold"], group.get("power", 1)))
    for target, t, rows in sets.values():
        if isinstance(t, Tensor):
            share = target.share_on_device(t)
            g: Any = magnitude_at_on_device(share, list(_parts(rows)))
        elif target.is_due(t) and (share := target.share(t)) > 0:
            g = magnitude_at(share, list(_parts(rows)), near=float(rows[0].g))
        else:
            continue
        for row in rows:
            row.g.copy_(g) if isinstance(g, Tensor) else row.g.fill_(g)
            cut(local_tensor(row.v), g, row.power, out=local_tensor(row.p))


def _parts(rows: list[_Row]) -> Iterable[Magnitudes]:
    """The local dual variables, those together whose shards lie on the same processes."""
    parts: dict[Any, list[Tensor]] = {}
    for row in rows:
        mesh = getattr(row.v, "device_mesh", None)
        key = (
            None
            if mesh is None
            else (mesh, tuple(i for i, x in enumerate(getattr(row.v, "placements", ())) if x.is_shard()))
        )
        parts.setdefault(key, []).append(local_tensor(row.v))
    for key, tensors in parts.items():
        yield Magnitudes(tensors, add_up=None if key is None else partial(_add_up, *key))


def _add_up(mesh: Any, dimensions: tuple[int, ...], counts: Tensor) -> None:
    """Add the counts of the shards over these dimensions of a mesh, in place."""
    from torch import distributed

    for dimension in dimensions:
        distributed.all_reduce(counts, group=mesh.get_group(dimension))
