"""Notice weights that were written from outside of GRDA, whose next step would undo that without a word."""

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..caller import warn_caller
from ..tensors import LOCKED, local_tensor
from .checks import label
from .target import law_of
from .threshold import cut

__all__ = ["record_weights", "warn_of_writes"]

_versions_of = Tensor._version.__get__  # pyrefly: ignore  (half the time of an attribute)
# Reading the versions of many tiny tensors would take 3 % of their step.
_MOST_TINY, _TINY = 6, 2**8
_STEPS_A_SAMPLE = 16


class _Record:
    """The weights after a step, as far as they can be compared in a few microseconds."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.key = _key(optimizer)
        pruned = [
            p for group in optimizer.param_groups for p in group["params"] if "dual" in optimizer.state.get(p, ())
        ]
        tiny = len(pruned) > 16 and sum(p.numel() for p in pruned) < _TINY * len(pruned)
        self.watched = pruned[:: -(-len(pruned) // _MOST_TINY)] if tiny else pruned
        captured = any(group["capturable"] for group in optimizer.param_groups)  # then the host reads no number
        self.readable = [p for p in self.watched if type(p) is Parameter and p.is_cpu and p.numel() and not captured]
        self.steps = 0
        self.update()

    def update(self) -> None:
        """Take down the weights that a step has written."""
        self.versions = sum(map(_versions_of, self.watched))
        # A write through `p.data` counts no version of p, so the first numbers of one parameter are compared too.
        if self.steps % _STEPS_A_SAMPLE == 0:
            number = self.steps // _STEPS_A_SAMPLE
            self.sampled = self.readable[number % len(self.readable)] if self.readable else None
            if self.sampled is not None:
                self.address = self.sampled.data_ptr()
                self.first = self.sampled.detach().as_strided((min(self.sampled.numel(), 8),), (1,))
        self.values = [] if self.sampled is None else self.first.tolist()
        self.steps += 1

    def shows_no_write(self, optimizer: Optimizer) -> bool:
        return (
            self.versions == sum(map(_versions_of, self.watched))
            and (self.sampled is None or (self.address, self.values) == (self.sampled.data_ptr(), self.first.tolist()))
            and self.key == _key(optimizer)
        )


def _key(optimizer: Optimizer) -> tuple[int, int]:
    """Differs where a state was loaded, or a group was added."""
    return id(optimizer.state), len(optimizer.param_groups)


# Beside the optimizers, so that no copy and no file holds it.
_records: WeakKeyDictionary[Optimizer, _Record] = WeakKeyDictionary()
_warned: WeakSet[Optimizer] = WeakSet()


def record_weights(optimizer: Optimizer) -> None:
    """Remember the weights that a step has written."""
    if torch.compiler.is_compiling():
        return
    record = _records.get(optimizer)
    if record is not None and record.key == _key(optimizer):
        record.update()
    elif optimizer not in _warned:
        _records[optimizer] = _Record(optimizer)


def warn_of_writes(optimizer: Optimizer) -> None:
    """Warn once if weights are no longer those that follow from their duals; before a step."""
    if torch.compiler.is_compiling():
        return
    record = _records.get(optimizer)
    if (record is not None and record.shows_no_write(optimizer)) or optimizer in _warned:
        return
    _records.pop(optimizer, None)  # what it compares may have moved
    written = _written(optimizer)
    if not written:
        return
    _warned.add(optimizer)
    more = f" (and {len(written) - 1} more)" if written[1:] else ""
    warn_caller(
        f"GRDA is about to undo a change from outside of {written[0]}{more}: weights follow from their duals (load the "
        "optimizer's state with the weights, change weights before the first step, or call optimizer.state.pop(p, "
        "None) after the change, so that the dual of p starts anew from p)"
    )


def _written(optimizer: Optimizer) -> list[str]:
    """The names of the parameters whose weights are not their thresholded dual."""
    names, flags = [], []
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            state = optimizer.state.get(p, {})
            if "dual" in state and (flag := _differs(p, state, law_of(group).power)) is not None:
                names.append(label(group, i).removesuffix(","))
                flags.append(flag)
    if not flags or (flags[0].is_cuda and torch.cuda.is_current_stream_capturing()):
        return []
    # One transfer from the device, not one for each parameter.
    differs = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return [name for name, written in zip(names, differs, strict=True) if written]


def _differs(p: Tensor, state: dict[str, Any], power: float) -> Tensor | None:
    """Whether the weights differ from S_g(v) by more than rounding, as a scalar on their device."""
    w, v, g = local_tensor(p.detach()), local_tensor(state["dual"]), state["threshold"]
    if w.shape != v.shape or w.device != v.device or not w.numel():
        return None
    expected = torch.empty_like(w)
    cut(v, g.item() if g.is_cpu else g, power, out=expected)
    # A perturbation that is taken back, as in sharpness-aware training, leaves rounding errors of its own size.
    tolerance = max(torch.finfo(w.dtype).eps, 1e-5) * expected.abs().max()
    apart = (w - expected).abs() > tolerance
    if id(p) in LOCKED:
        apart &= w != 0
    # Weights that were stored in half precision in between.
    for half in (torch.bfloat16, torch.float16):
        apart &= w != expected.to(half).to(w.dtype)
    return apart.any()
