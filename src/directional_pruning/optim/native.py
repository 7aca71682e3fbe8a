"""One pass over all parameters on the CPU: a C kernel, compiled at installation where there is a compiler.

torch needs three operations for an update, each of which reads and writes memory. The kernel moves 16 bytes a float32
parameter, 12 a bfloat16 one: it reads d and v, and writes v and w.
"""

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
_BFLOAT16 = [(torch.bfloat16, torch.float32, d) for d in (torch.bfloat16, torch.float32)]
# Fewer elements than this are not worth waking a second thread; more than this do not stay in the caches anyway.
_ELEMENTS_PER_THREAD = 2**17
_STREAMING_ELEMENTS = 2**21
_MOST_WAITING = 2**25


def available() -> bool:
    """Whether the kernel was compiled."""
    return _native is not None


def fits(w: Tensor, v: Tensor, d: Tensor, g: Tensor | None = None, n: Tensor | None = None) -> bool:
    """Whether the kernel, which sees bare addresses, can update these.

    w, v and d must be plain CPU tensors of one shape and one dense layout: all float32, or bfloat16 with a float32 dual
    and a gradient of either kind; g a float64 and n a float32 scalar.
    """
    return (
        (w.dtype is v.dtype is d.dtype is torch.float32 or (w.dtype, v.dtype, d.dtype) in _BFLOAT16)
        and (w.is_cpu and v.is_cpu and d.is_cpu)
        and (type(w) in _PLAIN and type(v) in _PLAIN and type(d) in _PLAIN)
        and w.shape == v.shape == d.shape
        and w.stride() == v.stride() == d.stride()
        and (w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last))
        # A gradient that is negated or zero only on paper, or one that begins between two numbers.
        and not (d.is_neg() or d._is_zerotensor())
        and not (w.data_ptr() % w.itemsize or v.data_ptr() % v.itemsize or d.data_ptr() % d.itemsize)
        and (g is None or (g.dtype is torch.float64 and g.is_cpu))
        and (n is None or (n.dtype is torch.float32 and n.is_cpu))
        and _native is not None
        and not torch.compiler.is_compiling()
    )


class Batch:
    """Tensors that wait for one call of the kernel; see :func:`~directional_pruning.grda` for the notation."""

    def __init__(self, lr: float, c: float, mu: float) -> None:
        self.lr, self.mu, self.scale = lr, mu, c * lr ** (0.5 + mu)
        self._clear()

    def _clear(self) -> None:
        self.elements, self.table, self.waiting = 0, array("q"), []

    def add(self, w: Tensor, v: Tensor, d: Tensor, g: Tensor, n: Tensor) -> None:
        """Enqueue ``v -= lr * d`` and ``w = S_g(v)`` with the risen threshold, for tensors that :func:`fits`."""
        addresses = (t.data_ptr() for t in (w, v, d, g, n))
        self.table.extend((*addresses, w.numel(), w.itemsize, d.itemsize))
        self.waiting.append((w, v, d))
        self.elements += w.numel()
        # Bounded, because with weight decay each waiting gradient is a temporary.
        if self.elements >= _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Update what waits, on as many threads as torch uses."""
        if not self.waiting:
            return
        _native.raise_thresholds(self.table, self.scale, self.mu)
        threads = max(1, min(torch.get_num_threads(), self.elements // _ELEMENTS_PER_THREAD))
        _native.update(self.table, -self.lr, threads, self.elements >= _STREAMING_ELEMENTS)
        # So that autograd notices a change between forward and backward, as it does for torch's operations.
        torch.autograd.graph.increment_version([t for w, v, _ in self.waiting for t in (w, v)])
        self._clear()
