"""Warnings of a training that goes wrong, each once."""

from collections.abc import Sequence

from ..caller import warn_caller
from ..tensors import local_tensor
from .watched import NONZEROS, NOT_FINITE, Watched

__all__ = ["Problems"]

# Steps that a layer which began with zeros, as adapters do, has to leave them.
_GRACE = 100


class Problems:
    """Finds problems in the counts of a look, and warns of each once, in one line."""

    def __init__(self) -> None:
        self._seen_alive: set[str] = set()
        self._warned: set[str] = set()

    def judge(
        self, watched: Sequence[Watched], counts: Sequence[Sequence[int]], step: int, *, ago: int = 0, whole: bool
    ) -> None:
        """Warn of layers that are all zero and of parameters that are not finite.

        Args:
            counts: a row for each parameter.
            step: how many steps the monitor had seen at this look.
            ago: how many it has seen since.
            whole: whether the counts of sharded parameters are those of all processes.
        """
        pairs = list(zip(watched, counts, strict=True))
        broken = [each for each, row in pairs if row[NOT_FINITE]]
        if broken and self._first_time("not finite"):
            more = f", as {len(broken) - 1} more parameters are" if len(broken) > 1 else ""
            warn_caller(f"{broken[0].name} is not finite {_when(broken[0], step, ago)}{more}; use a smaller lr")
        self._seen_alive.update(each.name for each, row in pairs if row[NONZEROS])
        layers = [(each, row) for each, row in pairs if each.layer and (whole or not each.sharded)]
        dead = [each for each, row in layers if not row[NONZEROS] and self._is_problem(each, step)]
        new = [each for each in dead if self._first_time(each.name)]
        if not new:
            return
        total = sum(each.p.numel() for each in dead)
        if len(dead) == len(layers) > 1:
            what = f"every pruned layer: all {total:,} weights are zero"
        elif len(new) > 1:
            what = f"{len(new)} layers, {new[0].name} to {new[-1].name}: all their weights are zero"
        else:
            what = f"layer {new[0].name}: all {new[0].p.numel():,} weights are zero"
        warn_caller(f"{what} {_when(new[0], step, ago)}{_reason(new[0])}")

    def judge_end(self, watched: Sequence[Watched], counts: Sequence[Sequence[int]], step: int) -> None:
        """Warn if a target does not have all of its zeros yet, or if the threshold has risen without one zero."""
        pruned = [(each, row) for each, row in zip(watched, counts, strict=True) if each.pruned]
        for each, _ in pruned:
            if each.target and _counter(each, step) < each.target[3] * each.target[1]:  # its end and its steps
                warn_caller(
                    f"stopped before the target of {100 * each.target[0]:g} % zeros is reached: "
                    f"{_counter(each, step):,} of its {each.target[1]:,} steps were made; if this is the end of the "
                    "training, give Target(..., steps=) the number of updates of the whole training"
                )
                return
        largest = max((float(each.state.get("threshold", 0.0)) for each, _ in pruned), default=0.0)
        if largest > 0 and all(row[NONZEROS] == each.p.numel() for each, row in pruned):
            reason = f"the threshold {largest:.3g} is smaller than every |v|; use a larger {_setting(pruned[0][0])}"
            warn_caller(f"no pruned weight is zero {_when(pruned[0][0], step, 0)}: {reason}")

    def _is_problem(self, each: Watched, step: int) -> bool:
        return each.name in self._seen_alive or ("dual" in each.state and step >= _GRACE)

    def _first_time(self, problem: str) -> bool:
        new = problem not in self._warned
        self._warned.add(problem)
        return new


def _when(each: Watched, step: int, ago: int) -> str:
    return f"after step {_counter(each, step + ago) - ago}"


def _counter(each: Watched, step: int) -> int:
    """The steps by the optimizer's own counter, which a resumed training continues."""
    counter = each.state.get("updates", each.state.get("step"))
    return step if counter is None else int(counter)


def _reason(each: Watched) -> str:
    """That the threshold is above the dual, where it is."""
    dual, threshold = each.state.get("dual"), each.state.get("threshold")
    if dual is None or threshold is None or not local_tensor(dual).numel():
        return ""
    largest, g = float(local_tensor(dual).detach().abs().max()), float(threshold)
    if largest > g:  # other code wrote the zeros
        return ""
    at_most = "" if each.sharded else f" (at most {largest:.3g})"
    return f": the threshold {g:.3g} is larger than every |v|{at_most}; use a smaller {_setting(each)}"


def _setting(each: Watched) -> str:
    return "sparsity of the target" if each.target else "c"
