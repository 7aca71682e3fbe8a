"""One pass over all parameters on the CPU: a C kernel, compiled at installation where there is a compiler.

torch needs three operations for an update, each of which reads and writes memory. The kernel moves 16 bytes a float32
parameter, 12 a bfloat16 one: it reads d and v, and writes v and w. Momentum adds 8, weight decay a reading of w.
"""

import os
from array import array
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "available", "fits"]


def _load() -> Any:
    try:
        return import_module("._native", __package__)
    except ImportError:  # no compiler at installation: torch's operations do the same, slower
        return None


_native = _load()

_PLAIN = (Tensor, nn.Parameter)
_BYTES = {torch.float32: 4, torch.bfloat16: 2}
# Fewer elements than this are not worth waking a second thread; more than this do not stay in the caches anyway.
_ELEMENTS_PER_THREAD = 2**17
_STREAMING_ELEMENTS = 2**21
# A fork has none of the threads that OpenMP believes it has, and would wait for them for ever.
_process = os.getpid()


def available() -> bool:
    """Whether the kernel was compiled."""
    return _native is not None


def fits(
    w: Tensor,
    v: Tensor,
    d: Tensor | None,
    g: Tensor | None = None,
    n: Tensor | None = None,
    buffer: Tensor | None = None,
) -> bool:
    """Whether :meth:`Batch.add` would take these; a scalar that is not given would fit."""
    g = torch.zeros((), dtype=torch.float64, device="cpu") if g is None else g
    n = torch.zeros((), dtype=torch.float32, device="cpu") if n is None else n
    return Batch(0.0, 0.0, 1.0).add(w, v, d, g, n, buffer)


def _channels_last(*tensors: Tensor | None) -> bool:
    return all(t is None or t.is_contiguous(memory_format=torch.channels_last) for t in tensors)


class Batch:
    """Tensors that wait for one call of the kernel; see :func:`~directional_pruning.grda` for the notation."""

    def __init__(
        self,
        lr: float,
        c: float,
        mu: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        power: int = 1,
    ) -> None:
        self.mu, self.scale = mu, c * lr ** (0.5 + mu)
        self.rates = lr, momentum, weight_decay, nesterov, maximize, power
        self._clear()

    def _clear(self) -> None:
        self.elements = 0
        self.table: list[int] = []
        self.changed: list[Tensor] = []
        self.kept: list[Tensor | None] = []

    def add(self, w: Tensor, v: Tensor, d: Tensor | None, g: Tensor, n: Tensor, buffer: Tensor | None = None) -> bool:
        """Enqueue an update and return True, or False where the kernel, which sees bare addresses, cannot make it.

        With a gradient d, what SGD makes of it (decay, momentum in ``buffer``, which starts at zero) is subtracted from
        v, lr times; without one, w holds what another optimizer made of the weights, and v moves by the difference.

        w, v, d and the momentum buffer must be plain CPU tensors of one shape and one dense layout: w float32 or
        bfloat16, d the same or float32, v and the buffer float32; g a float64 and n a float32 scalar.
        """
        # For a small tensor this takes longer than the update; so it reads what it needs once, without loops or calls.
        single, shape, grad = torch.float32, w.shape, w if d is None else d
        w_bytes, d_bytes = _BYTES.get(w.dtype, 0), _BYTES.get(grad.dtype, 0)
        if not (
            _native is not None
            and 0 < w_bytes <= d_bytes
            and (v.dtype is n.dtype is single and g.dtype is torch.float64)
            and (type(w) in _PLAIN and type(v) in _PLAIN and type(grad) in _PLAIN)
            and (w.is_cpu and v.is_cpu and grad.is_cpu and g.is_cpu and n.is_cpu)
            and shape == v.shape == grad.shape
            # A gradient that is negated or zero only on paper.
            and not (grad.is_neg() or grad._is_zerotensor())
            and (buffer is None or (buffer.dtype is single and type(buffer) in _PLAIN))
            and (buffer is None or (buffer.is_cpu and buffer.shape == shape))
            and (
                (
                    (w.is_contiguous() and v.is_contiguous() and grad.is_contiguous())
                    and (buffer is None or buffer.is_contiguous())
                )
                or _channels_last(w, v, grad, buffer)
            )
        ):
            return False
        w_at, v_at = w.data_ptr(), v.data_ptr()
        d_at, b_at = 0 if d is None else d.data_ptr(), 0 if buffer is None else buffer.data_ptr()
        if w_at % w_bytes or d_at % d_bytes or (v_at | b_at) % 4:  # it begins between two numbers
            return False
        elements = w.numel()
        self.table += (w_at, v_at, d_at, b_at, g.data_ptr(), n.data_ptr(), elements, w_bytes, d_bytes, 0)
        self.kept += (d, g, n)
        self.changed += (w, v) if buffer is None else (w, v, buffer)
        self.elements += elements
        return True

    def flush(self) -> None:
        """Update what waits, on as many threads as torch uses."""
        if not self.changed:
            return
        table = array("q", self.table)
        _native.raise_thresholds(table, self.scale, self.mu)
        most = torch.get_num_threads() if os.getpid() == _process else 1
        threads = max(1, min(most, self.elements // _ELEMENTS_PER_THREAD))
        _native.update(table, *self.rates, threads, self.elements >= _STREAMING_ELEMENTS)
        # So that autograd notices a change between forward and backward, as it does for torch's operations.
        torch.autograd.graph.increment_version(self.changed)
        self._clear()
