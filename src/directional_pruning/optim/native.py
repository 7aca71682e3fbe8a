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
    """Whether the kernel, which sees bare addresses, can update these.

    w, v, d and the momentum buffer must be plain CPU tensors of one shape and one dense layout: w float32 or bfloat16,
    d the same or float32, v and the buffer float32; g a float64 and n a float32 scalar.
    """
    single, kind, shape, stride = torch.float32, w.dtype, w.shape, w.stride()
    return (
        _native is not None
        and (kind is single or kind is torch.bfloat16)
        and v.dtype is single
        and (w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last))
        and _laid_out(w, shape, stride)
        and _laid_out(v, shape, stride)
        and (d is None or ((d.dtype is kind or d.dtype is single) and _laid_out(d, shape, stride)))
        # A gradient that is negated or zero only on paper.
        and (d is None or not (d.is_neg() or d._is_zerotensor()))
        and (buffer is None or (buffer.dtype is single and _laid_out(buffer, shape, stride)))
        and (g is None or (g.dtype is torch.float64 and g.is_cpu))
        and (n is None or (n.dtype is single and n.is_cpu))
    )


def _laid_out(t: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> bool:
    """Whether t is a plain tensor of the CPU, laid out like this and not beginning between two numbers."""
    plain = type(t) in _PLAIN and t.is_cpu
    return plain and t.shape == shape and t.stride() == stride and not t.data_ptr() % t.itemsize


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
        self.elements, self.table, self.waiting, self.changed = 0, array("q"), [], []

    def add(self, w: Tensor, v: Tensor, d: Tensor | None, g: Tensor, n: Tensor, buffer: Tensor | None = None) -> None:
        """Enqueue an update of tensors that :func:`fits`.

        With a gradient d, what SGD makes of it (decay, momentum in ``buffer``, which starts at zero) is subtracted from
        v, lr times; without one, w holds what another optimizer made of the weights, and v moves by the difference.
        """
        gradient, of_d = (0, 0) if d is None else (d.data_ptr(), d.itemsize)
        velocity = 0 if buffer is None else buffer.data_ptr()
        elements = w.numel()
        addresses = (w.data_ptr(), v.data_ptr(), gradient, velocity, g.data_ptr(), n.data_ptr())
        self.table.extend((*addresses, elements, w.itemsize, of_d, 0))
        self.waiting.append((d, g, n))
        self.changed += (w, v) if buffer is None else (w, v, buffer)
        self.elements += elements

    def flush(self) -> None:
        """Update what waits, on as many threads as torch uses."""
        if not self.changed:
            return
        _native.raise_thresholds(self.table, self.scale, self.mu)
        most = torch.get_num_threads() if os.getpid() == _process else 1
        threads = max(1, min(most, self.elements // _ELEMENTS_PER_THREAD))
        _native.update(self.table, *self.rates, threads, self.elements >= _STREAMING_ELEMENTS)
        # So that autograd notices a change between forward and backward, as it does for torch's operations.
        torch.autograd.graph.increment_version(self.changed)
        self._clear()
