"""Watch a training from its optimizer's steps: zeros, revivals and the threshold; warn of what goes wrong."""

import weakref
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..layer_kinds import parameter_kinds
from .problems import Problems
from .watched import (
    DEAD_ROWS,
    NONZEROS,
    REVIVALS,
    Watched,
    count_elements,
    sum_over_processes,
    watched_parameters,
)

__all__ = ["SparsityMonitor"]


class _Look(NamedTuple):
    """Counts, a row for each parameter; they are on the host when the event has passed."""

    step: int
    watched: Sequence[Watched]
    counts: Tensor
    event: Any


class SparsityMonitor:
    """Watches the steps of an optimizer, in any training loop: figures for a logger, warnings of bad outcomes.

    Every ``interval`` steps it counts on the device, without waiting for it: the zeros of each pruned parameter,
    the revivals (zero at the last look, not zero now) and the dead rows (output units without a nonzero weight).
    The optimizer is :class:`~directional_pruning.GRDA`, :class:`~directional_pruning.Directional`, or any other of
    torch, also one that Accelerate or Lightning has wrapped. Pruned are the parameters in groups with ``c > 0`` and
    those that have a dual; where no group has a ``c``, the weights and embeddings.

    It warns once of each problem, in one line:

    - a layer whose weights are all zero, with the threshold and the largest |v|. A layer that began with zeros has 100
      steps to leave them. A bias may be all zero;
    - a parameter that is NaN or infinite;
    - no zeros, though the threshold has risen, or fewer steps than a ``Target`` needs: only at :meth:`remove` or the
      end of the ``with`` block, and if there were ``interval`` steps. Earlier nobody can know.

    It needs one byte of memory for each pruned weight. Copies of the optimizer, also pickled ones, are not watched.
    Each process warns for itself. Of sharded parameters (FSDP2, DTensor) a look counts what this process holds, and
    calls no layer dead; :meth:`metrics` adds up all processes. Steps inside a CUDA graph are not seen; :meth:`metrics`
    counts there too.

    Args:
        model: gives the parameters their names.
        optimizer: whose steps are watched; ``Directional`` itself, not its base.
        interval: steps between two looks.

    Raises:
        TypeError: if ``model`` is no module or ``optimizer`` is no torch optimizer.
        ValueError: if the optimizer has no parameter of the model, or for an ``interval`` below 1.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight = nn.Parameter(torch.tensor([[1.0, 0.5]]))
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> monitor = SparsityMonitor(layer, optimizer, interval=1)
        >>> layer.weight.grad = torch.tensor([[0.25, 0.5]])
        >>> optimizer.step()
        >>> monitor.metrics()
        {'sparsity_pruned': 0.5, 'revivals': 0.0, 'threshold': 0.0, 'dead_layers': 0.0, 'dead_rows': 0.0}
        >>> monitor.remove()
    """

    def __init__(self, model: nn.Module, optimizer: Any, *, interval: int = 100) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"invalid model: {type(model).__name__} (must be a module)")
        wrapped = optimizer
        while hasattr(wrapped, "optimizer"):  # by Accelerate or Lightning
            wrapped = wrapped.optimizer
        if not isinstance(wrapped, Optimizer):
            raise TypeError(f"invalid optimizer: {type(optimizer).__name__} (must be a torch optimizer)")
        if not isinstance(interval, Integral) or interval < 1:
            raise ValueError(f"invalid interval: {interval} (must be an integer >= 1)")
        own = set(model.parameters())
        if not any(p in own for group in wrapped.param_groups for p in group["params"]):
            raise ValueError("invalid optimizer: it has no parameter of the model")
        self._model, self._interval, self._kinds = model, interval, parameter_kinds(model)
        self._optimizer = weakref.ref(wrapped)  # its hooks hold this monitor
        self._nonzero: dict[str, Tensor | None] = {}
        self._revivals: dict[str, Tensor] = {}
        self._steps, self._looked_at = 0, -1
        self._pending: _Look | None = None
        self._problems = Problems()
        self._begin()
        self._hook: Any = wrapped.register_step_post_hook(self._after_step)

    def metrics(self, *, layers: bool = False) -> dict[str, float]:
        """Count now, and return a flat dictionary for any logger; this waits for the device.

        If parameters are sharded, the figures are those of the whole network, and every process has to call, because
        they add up their counts. Only rows that are themselves cut are not counted as dead.

        Args:
            layers: add ``sparsity_pruned/NAME`` for each pruned parameter.

        Returns:
            ``sparsity_pruned``, the fraction of zeros among the pruned parameters; ``revivals``, how many weights were
            zero at the last look and are not at this one; ``threshold``, the largest; ``dead_layers`` and
            ``dead_rows``, how many layers, and rows of weights, are all zero.
        """
        self._read()
        look = self._look(wait=True)
        rows = sum_over_processes(look.counts, look.watched).tolist()
        self._problems.judge(look.watched, rows, look.step, whole=True)
        pruned = [(each, row) for each, row in zip(look.watched, rows, strict=True) if each.pruned]
        total, nonzeros = sum(each.p.numel() for each, _ in pruned), sum(row[NONZEROS] for _, row in pruned)
        result = {
            "sparsity_pruned": 1 - nonzeros / total if total else 0.0,
            "revivals": float(sum(row[REVIVALS] for _, row in pruned)),
            "threshold": max((float(each.state.get("threshold", 0.0)) for each, _ in pruned), default=0.0),
            "dead_layers": float(sum(each.layer and not row[NONZEROS] for each, row in pruned)),
            "dead_rows": float(sum(row[DEAD_ROWS] for _, row in pruned)),
        }
        if layers:
            result |= {f"sparsity_pruned/{each.name}": 1 - row[NONZEROS] / each.p.numel() for each, row in pruned}
        return result

    def remove(self) -> None:
        """Stop watching, and say if zeros are missing at the end; a second call does nothing."""
        if self._hook is None:
            return
        self._detach()
        self._read()
        if self._steps >= self._interval and self._optimizer() is not None:
            look = self._look(wait=True)
            self._problems.judge_end(look.watched, look.counts.tolist(), look.step)

    def __enter__(self) -> "SparsityMonitor":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self.remove()
        else:  # the user has to see the error, not that there is no zero yet
            self._detach()

    def _detach(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    @torch._disable_dynamo
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._steps += 1
        if self._steps % self._interval and self._pending is None:
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        if self._pending is not None and self._pending.event.query():
            self._read()
        if self._steps % self._interval == 0:
            self._begin()

    def _begin(self) -> None:
        """Look, and judge as soon as the counts are there: on the CPU at once."""
        self._read()
        self._pending = self._look()
        if self._pending.event is None:
            self._read()

    @torch.no_grad()
    def _look(self, *, wait: bool = False) -> _Look:
        """Count, and start to copy the counts to the host."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError("the optimizer that is monitored does not exist any more")
        watched = watched_parameters(self._model, optimizer, self._kinds)
        new, rows = self._steps > self._looked_at, []
        for each in watched:
            row, nonzero = count_elements(each, self._nonzero.get(each.name) if new else None)
            if new:
                self._nonzero[each.name], self._revivals[each.name] = nonzero, row[REVIVALS]
            elif each.name in self._revivals:  # of the last step; weights that were written since count at the next
                row[REVIVALS] = self._revivals[each.name]
            rows.append(row)
        self._looked_at = self._steps
        counts = torch.stack([row.to(rows[0].device, non_blocking=True) for row in rows])
        if wait or _is_on_host(counts):
            return _Look(self._steps, watched, counts, None)
        return _Look(self._steps, watched, *_copy_to_host(counts))

    def _read(self) -> None:
        """Judge the look whose counts are on their way."""
        look, self._pending = self._pending, None
        if look is not None:
            if look.event is not None:
                look.event.synchronize()
            ago = self._steps - look.step
            self._problems.judge(look.watched, look.counts.tolist(), look.step, ago=ago, whole=False)


def _copy_to_host(counts: Tensor) -> tuple[Tensor, Any]:
    """A copy that is complete when the event has passed."""
    event = torch.Event(counts.device)
    copy = counts.to("cpu", non_blocking=True)
    event.record(torch.accelerator.current_stream(counts.device))
    return copy, event


def _is_on_host(counts: Tensor) -> bool:
    return counts.is_cpu
