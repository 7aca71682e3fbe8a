"""Update lists of parameters: the compiled extension finds those that a kernel can take, and the kernels are launched.

torch needs three operations for an update, each of which reads and writes memory. The CPU kernel moves 16 bytes a
float32 parameter, 12 a bfloat16 one: it reads d and v, and writes v and w. Momentum adds 8, weight decay a read of w.
"""

import math
import os
from array import array
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import cuda

__all__ = [
    "SGDOptions",
    "are_wanted",
    "available",
    "can_update",
    "histogram",
    "make_weights",
    "scale_gradients",
    "update",
]


class SGDOptions(NamedTuple):
    """What SGD does with the gradient before it subtracts it, in the order in which the kernels take it."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False


def _load() -> Any:
    try:
        extension = import_module("._native", __package__)
        extension.connect(torch.Tensor.__dlpack_c_exchange_api__, Tensor, nn.Parameter)  # pyrefly: ignore
        _ = extension.scale
    # Not compiled at installation, compiled from older sources, or a torch without DLPack 1.x.
    except (ImportError, AttributeError, ValueError):
        return None
    return extension


_native = _load()

# The powers of the cut that the kernels know, as they number them; 0 is the hard cut.
POWERS = {1: 1, 2: 2, 4: 4, 8: 8, 16: 16, 32: 32, 64: 64, math.inf: 0}
_CPU = 1  # a bit of _devices
# With fewer elements than this a second thread costs more than it saves; with more the caches do not hold them anyway.
_ELEMENTS_PER_THREAD = 2**17
_STREAMING_ELEMENTS = 2**21
# A forked process has none of the threads that OpenMP believes it has, and would wait for them for ever.
_process = os.getpid()


def are_wanted(fused: bool | None, foreach: bool | None) -> bool:
    """Whether these options ask for kernels: ``fused=True``, or neither option."""
    return bool(fused or (fused is None and not foreach))


def available(*, cuda_too: bool = False) -> bool:
    """Whether the extension was compiled and, if asked, the kernels for CUDA can be used."""
    return _native is not None and (not cuda_too or cuda.available())


def can_update(w: Tensor) -> bool:
    """Whether a kernel can update these weights, with a float32 dual and a gradient that are laid out like them."""
    if w.device.type not in ("cpu", "cuda") or _native is None:
        return False
    v = torch.empty_like(w, dtype=torch.float32)
    g, n = (torch.zeros((), dtype=dtype, device=w.device) for dtype in (torch.float64, torch.float32))
    return not _native.table(_devices(0.0), [w], [w], [v], None, [g], [n])[1]


def update(
    params: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    duals: Sequence[Tensor | None],
    momentum_buffers: Sequence[Tensor | None] | None,
    thresholds: Sequence[Tensor | None],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    c: float,
    mu: float,
    sgd: SGDOptions = SGDOptions(),  # noqa: B008 (immutable)
    power: float = 1,
    gradient_of_zeros: float = 1.0,
) -> list[int]:
    """Update with the kernels all that they can, and return the indices of the others, which are left untouched.

    w, d, v and the momentum buffer must be plain tensors of one shape and one dense layout on one device, the CPU or
    CUDA: w float32 or bfloat16, on CUDA also float16; d the same or float32; v and the buffer float32; g a float64 and
    n a float32 scalar on that device. On CUDA they begin at multiples of 16 bytes. d is left to others where it is a
    negated view; the caller must see to it that the other tensors are none.

    Args:
        params, duals, momentum_buffers, thresholds, steps: w, v, buffers, g and n; see
            :func:`~directional_pruning.grda`.
        grads: d, or None where another optimizer has moved the weights already: then v += w - w_before.
        lr: a number, or a tensor for CUDA alone.
        power: of the cut; with another one than those of POWERS no tensor is updated.
        gradient_of_zeros: factor on d where the weight is zero, once g > 0.
    """
    if _native is None or power not in POWERS:
        return list(range(len(params)))
    tables, rest = _native.table(_devices(lr), params, grads, duals, momentum_buffers, thresholds, steps)
    for kind, table in tables.items():
        launch = cuda.update if kind >> 8 else update_on_cpu
        launch(kind, table, lr, c, mu, sgd, POWERS[power], gradient_of_zeros)
    if tables:
        _count_writes([params, duals, momentum_buffers or ()], rest)
    return rest


def update_on_cpu(
    kind: int,
    table: bytearray,
    lr: float | Tensor,
    c: float,
    mu: float,
    sgd: SGDOptions,
    power: int,
    of_zeros: float,
) -> None:
    """Update the rows of a table, all of one ``kind``, on as many threads as torch uses."""
    limits = _threads(), _ELEMENTS_PER_THREAD, _STREAMING_ELEMENTS
    _native.update(table, c * lr ** (0.5 + mu), mu, lr, *sgd, power, of_zeros, *limits)


def make_weights(
    params: Sequence[Tensor],
    duals: Sequence[Tensor],
    thresholds: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    power: float,
) -> list[int]:
    """Make the weights on the CPU from the duals under their thresholds; return the indices of others, as update."""
    if _native is None or power not in POWERS:
        return list(range(len(params)))
    tables, rest = _native.table(_CPU, params, None, duals, None, thresholds, steps)
    for table in tables.values():
        _native.cut(table, POWERS[power], _threads(), _ELEMENTS_PER_THREAD, _STREAMING_ELEMENTS)
    _count_writes([params], rest)
    return rest


def scale_gradients(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    duals: Sequence[Tensor],
    thresholds: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    factor: float,
) -> list[int]:
    """Multiply d in place where the weight is zero, on the CPU; return the indices of others, as update."""
    if _native is None:
        return list(range(len(params)))
    tables, rest = _native.table(_CPU, params, grads, duals, None, thresholds, steps)
    for table in tables.values():
        _native.scale(table, factor, _threads(), _ELEMENTS_PER_THREAD)
    _count_writes([grads], rest)
    return rest


def _count_writes(columns: list[Any], rest: list[int]) -> None:
    """Let autograd notice a change between forward and backward, as it does for torch's operations."""
    if rest:
        others = set(rest)
        columns = [[t for i, t in enumerate(ts) if i not in others] for ts in columns]
    torch.autograd.graph.increment_version([t for ts in columns for t in ts if t is not None])


def _threads() -> int:
    return torch.get_num_threads() if os.getpid() == _process else 1


def _devices(lr: float | Tensor) -> int:
    """The devices with a kernel, as bits: 1 the CPU, where the rate must be a number, 2 CUDA."""
    return (_CPU if not isinstance(lr, Tensor) else 0) | cuda.available() << 1


def histogram(tensors: Sequence[Tensor], low: int, shift: int) -> Tensor | None:
    """Count magnitudes in bins, see ``optim/quantile.py``; None unless all are plain, dense float32 on the CPU."""
    if _native is None or not all(
        t.is_cpu and t.dtype is torch.float32 and t.layout is torch.strided and _is_dense(t) for t in tensors
    ):
        return None
    counts = torch.frombuffer(memory := bytearray(8 * 2050), dtype=torch.int64)
    pairs = array("q", [x for t in tensors for x in (t.data_ptr(), t.numel())])
    _native.histogram(pairs, memory, low, shift, _threads(), _ELEMENTS_PER_THREAD)
    return counts


def _is_dense(t: Tensor) -> bool:
    return t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))
