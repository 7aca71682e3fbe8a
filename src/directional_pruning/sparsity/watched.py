"""The parameters of an optimizer at one moment, and how many of their elements are zero, on their own device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..layer_kinds import PRUNABLE
from ..tensors import local_tensor

__all__ = ["COLUMNS", "Watched", "count_elements", "sum_over_processes", "watched_parameters"]

# Of a row of counts. Not finite is 1 where the parameter holds NaN or infinity.
COLUMNS = NONZEROS, REVIVALS, DEAD_ROWS, NOT_FINITE = range(4)


class Watched(NamedTuple):
    """One parameter of the optimizer."""

    name: str
    p: Tensor
    state: dict[str, Any]
    pruned: bool
    layer: bool
    """Whether it is a pruned weight or embedding; a bias may be all zero."""
    target: tuple[Any, ...] | None = None
    """What sets its threshold in place of ``c``: a ``Target`` as the tuple that its group holds."""

    @property
    def sharded(self) -> bool:
        """Whether this process holds a part of it only."""
        return any(not placement.is_replicate() for placement in getattr(self.p, "placements", ()))


def watched_parameters(model: nn.Module, optimizer: Optimizer, kinds: dict[str, str]) -> list[Watched]:
    """The parameters that both have, in the order of the model.

    Pruned are those in groups with ``c > 0``, and those with a dual; where no group has a ``c``, the prunable kinds.
    """
    knows_c = any("c" in group for group in optimizer.param_groups)
    strength = {p: group.get("c", 0.0) for group in optimizer.param_groups for p in group["params"]}
    target = {p: group.get("target") for group in optimizer.param_groups for p in group["params"]}
    rows = []
    for name, p in model.named_parameters():
        if p in strength and not p.is_meta and p.numel():
            state, prunable = optimizer.state.get(p, {}), kinds.get(name, "weight") in PRUNABLE
            pruned = "dual" in state or (strength[p] > 0 if knows_c else prunable)
            rows.append(Watched(name, p, state, pruned, pruned and prunable, target[p]))
    return rows


def count_elements(each: Watched, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A row of counts of the local shard, and where it is not zero, for the next call; without waiting for the device.

    Args:
        before: where it was not zero earlier; then revivals are counted.
    """
    w = local_tensor(each.p.detach())
    zero = torch.zeros((), dtype=torch.int64, device=w.device)
    # One fast pass; a sum of finite float32 numbers that overflows is a training that diverged as well.
    values = w.sum(dtype=torch.float32 if w.is_floating_point() and w.itemsize < 4 else None)
    not_finite = (~torch.isfinite(values)).to(torch.int64)
    if not each.pruned:
        return torch.stack([zero + w.numel(), zero, zero, not_finite]), None
    nonzero = w != 0
    # Of bytes into int32, because on the CPU that is four times as fast as torch's own sum of bools.
    rows = (nonzero.flatten(1) if w.ndim > 1 else nonzero.reshape(1, -1)).view(torch.uint8).sum(1, dtype=torch.int32)
    cut = any(getattr(placement, "dim", 0) for placement in getattr(each.p, "placements", ()))
    dead = (rows == 0).sum() if w.ndim > 1 and not cut else zero
    revivals = zero
    if before is not None and before.shape == w.shape and before.device == w.device:
        revivals = torch.gt(nonzero, before).count_nonzero()
    return torch.stack([rows.sum(), revivals, dead, not_finite]), nonzero


def sum_over_processes(counts: Tensor, watched: Sequence[Watched]) -> Tensor:
    """Add up the rows of the sharded parameters over the processes that hold the shards; each of them has to call."""
    groups: dict[Any, list[int]] = {}
    for i, each in enumerate(watched):
        if each.sharded:
            p: Any = each.p
            groups.setdefault((p.device_mesh, tuple(x.is_replicate() for x in p.placements)), []).append(i)
    for (mesh, replicated), rows in groups.items():
        from torch.distributed.tensor import DTensor, Partial, Replicate

        placements = [Replicate() if each else Partial() for each in replicated]
        counts[rows] = DTensor.from_local(counts[rows], mesh, placements, run_check=False).full_tensor()
    return counts
