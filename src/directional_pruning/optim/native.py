"""One pass over all float32 parameters on the CPU: a C kernel, compiled at installation where there is a compiler.

torch needs three operations for an update, each of which reads and writes memory. The kernel moves 16 bytes a
parameter: it reads d and v, and writes v and w.
"""

import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Update", "available", "fits", "update"]

Update = tuple[Tensor, Tensor, Tensor, float]
"""(w, v, d, g): weights, dual, what the dual moves against, threshold."""


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


def available() -> bool:
    """Whether the kernel was compiled."""
    return _native is not None


def fits(w: Tensor, v: Tensor, d: Tensor) -> bool:
    """Whether the kernel can update these: plain float32 CPU tensors, dense and of one memory layout."""
    return (
        _native is not None
        and not torch.compiler.is_compiling()
        and all(type(t) in _PLAIN and t.dtype is torch.float32 and t.is_cpu for t in (w, v, d))
        and w.stride() == v.stride() == d.stride()
        and (w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last))
    )


def update(updates: list[Update], lr: float) -> None:
    """``v -= lr * d`` and ``w = S_g(v)`` in place, for tensors that :func:`fits` accepts, on torch's thread count."""
    table, thresholds = array("q"), array("d")
    for w, v, d, g in updates:
        table.extend((w.data_ptr(), v.data_ptr(), d.data_ptr(), w.numel()))
        thresholds.append(g)
    total = sum(table[3::4])
    threads = max(1, min(torch.get_num_threads(), total // _ELEMENTS_PER_THREAD))
    cuts = [total * i // threads for i in range(threads + 1)]
    parts = [(table, thresholds, -lr, *cut, total >= _STREAMING_ELEMENTS) for cut in pairwise(cuts)]
    others = [_pool().submit(_native.update, *part) for part in parts[1:]]
    _native.update(*parts[0])
    for other in others:
        other.result()
    # So that autograd notices a change between forward and backward, as it does for torch's operations.
    torch.autograd.graph.increment_version([t for w, v, _, _ in updates for t in (w, v)])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="grda")


# A forked process has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
