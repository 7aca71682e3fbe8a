"""The threshold that gives a wanted share of zeros, set for all parameters that share it."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..caller import warn_caller
from ..tensors import local_tensor
from . import kernels
from .quantile import MOST, Magnitudes, magnitude_at, magnitude_at_on_device
from .target import Target, law_of, target_of
from .threshold import cut

__all__ = ["cut_at_targets"]

_MISS = 1e-4  # of all weights


class _Row(NamedTuple):
    w: Tensor
    v: Tensor
    g: Tensor
    n: Tensor
    cost: float
    group: dict[str, Any]
    power: float
    """Of the last cut."""


def cut_at_targets(groups: Iterable[dict[str, Any]], states: Any, *, counter: str) -> None:
    """Set the thresholds of all groups with a target, and make the weights again from the dual variables.

    Args:
        groups: parameter groups whose ``"target"`` is None or a :class:`Target` as a tuple. Those with a target count
            their updates in ``"target_updates"`` and keep the power of their last cut in ``"cut_power"``. The time of a
            target is the largest count of its groups, so that a group that begins later ends with the same share.
        states: the optimizer's state: ``"dual"`` and ``"threshold"`` of each parameter that is pruned.
        counter: the name in it of the number of updates.
    """
    sets: dict[Any, list[_Row]] = {}
    times: dict[Target, int] = {}
    clocks: dict[Target, list[Tensor]] = {}  # of targets whose time the host does not know
    for i, group in enumerate(groups):
        if group["target"] is None or not group["c"] > 0:
            continue
        target, lr = target_of(group["target"]), group["lr"]
        moves = (isinstance(lr, Tensor) and not lr.is_cpu) or bool(lr != 0)
        # Also at a rate of 0: a distributed checkpoint loads only what is there after such a step.
        group["target_updates"] = updates = group.get("target_updates", 0) + moves
        group["cut_power"] = law_of(group).power
        times[target] = max(updates, times.get(target, 0))
        for j, p in enumerate(group["params"]):
            state = states.get(p, {})
            if not moves or "dual" not in state:
                continue
            place = {"global": (), "group": (i,), "layer": (i, j)}[target.scope]
            cost = group["multiply_adds"][j] / max(p.numel(), 1) if target.of == "macs" else 1.0
            row = _Row(p, state["dual"], state["threshold"], state[counter], cost, group, group["cut_power"])
            sets.setdefault((target, *place), []).append(row)
            if group.get("capturable"):
                clocks.setdefault(target, []).append(row.n)
    for (target, *_), rows in sets.items():
        t, power = times[target], target.power_at(0)
        if target in clocks:
            share = target.share_on_device(torch.stack(clocks[target]).amax())
            g: Any = magnitude_at_on_device(share, list(_parts(rows)))
        elif target.is_due(t) and (share := target.share(t)) > 0:
            parts = list(_parts(rows))
            before = torch.stack([row.g.to(rows[0].g.device) for row in rows]).tolist()
            g, reached = magnitude_at(share, parts, near=before[0], tolerance=target.tolerance(t))
            if t == target.steps and g < MOST:  # else v is not finite, which the weights show
                _warn_of_miss(target, reached, parts)
            power = target.power_at(t)
            if set(before) == {g} and all(row.power == power for row in rows):
                continue
        else:
            continue
        for row in rows:
            row.group["cut_power"] = power
            row.g.copy_(g) if isinstance(g, Tensor) else row.g.fill_(g)
        local = [(local_tensor(row.w), local_tensor(row.v), row.g, row.n) for row in rows]
        for i in kernels.make_weights(*zip(*local, strict=True), power=power):
            w, v, _, _ = local[i]
            cut(v, g, power, out=w)


def _warn_of_miss(target: Target, reached: float, parts: list[Magnitudes]) -> None:
    """Say at the end what was reached, where no threshold gives the wanted share."""
    total = sum(cost * sum(v.numel() for v in tensors) for tensors, cost, _ in parts)
    one = max(cost for _, cost, _ in parts) / total if total else 1.0
    if abs(reached - target.sparsity) > _MISS + one:
        warn_caller(
            f"target not reached: {100 * reached:.2f} % instead of {100 * target.sparsity:.2f} % "
            f"{'zeros' if target.of == 'weights' else 'of the multiply-adds saved'}, because many "
            "weights have one |v|, such as weights that began at one value (leave them in a group with c=0)"
        )


def _parts(rows: list[_Row]) -> Iterable[Magnitudes]:
    """The local dual variables, those together that cost the same and whose shards lie on the same processes."""
    parts: dict[Any, list[Tensor]] = {}
    for row in rows:
        mesh = getattr(row.v, "device_mesh", None)
        sharded = tuple(i for i, x in enumerate(getattr(row.v, "placements", ())) if x.is_shard())
        parts.setdefault((row.cost, mesh, sharded), []).append(local_tensor(row.v))
    for (cost, mesh, sharded), tensors in parts.items():
        yield Magnitudes(tensors, cost, None if mesh is None else partial(_add_up, mesh, sharded))


def _add_up(mesh: Any, dimensions: tuple[int, ...], counts: Tensor) -> None:
    """Add the counts of the shards over these dimensions of a mesh, in place."""
    from torch import distributed

    for dimension in dimensions:
        distributed.all_reduce(counts, group=mesh.get_group(dimension))
