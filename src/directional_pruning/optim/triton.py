"""One pass over all parameters on CUDA: two Triton launches, whatever the number of tensors.

The first raises the thresholds, one lane a tensor, with the clocks on the device; the second updates all tensors, each
block some thousand elements of one of them, found through a table of addresses. Float32 moves 16 bytes a parameter,
bfloat16 and float16 weights 12: gradient and dual are read, dual and weight written.
"""

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "available", "fits"]


_PLAIN = (Tensor, nn.Parameter)
_HALF = (torch.bfloat16, torch.float16)
_ELEMENTS_PER_BLOCK = 4096
_TENSORS_PER_BLOCK = 128


@lru_cache(maxsize=1)
def _kernels() -> Any:
    """The module of the kernels; not before it is needed, because importing Triton takes long."""
    try:
        return import_module(".triton_kernels", __package__)
    except ImportError:  # no Triton on this machine: torch's operations do the same, slower
        return None


def available() -> bool:
    """Whether there is a CUDA device and Triton is installed."""
    return torch.cuda.is_available() and _kernels() is not None


def fits(
    w: Tensor,
    v: Tensor,
    d: Tensor | None,
    g: Tensor | None = None,
    n: Tensor | None = None,
    buffer: Tensor | None = None,
) -> bool:
    """Whether the kernels, which see bare addresses, can update these.

    w, v, d and the momentum buffer must be plain CUDA tensors of one shape and one dense layout, aligned to 16 bytes: w
    float32 or of half precision, d the same or float32, v and the buffer float32; g a float64 and n a float32 scalar on
    the same device.
    """
    dense = w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
    return (
        w.is_cuda
        and dense
        and v.dtype is torch.float32
        and (w.dtype is torch.float32 or w.dtype in _HALF)
        and (g is None or (g.dtype is torch.float64 and g.device == w.device))
        and (n is None or (n.dtype is torch.float32 and n.device == w.device))
        and (d is None or d.dtype in (w.dtype, torch.float32))
        and (buffer is None or buffer.dtype is torch.float32)
        and all(
            type(t) in _PLAIN
            and t.device == w.device
            and t.shape == w.shape
            and t.stride() == w.stride()
            and not t.data_ptr() % 16
            # A gradient that is negated or zero only on paper.
            and not (t.is_neg() or t._is_zerotensor())
            for t in (w, v, d, buffer)
            if t is not None
        )
    )


class Batch:
    """Tensors that wait for the launch; see :func:`~directional_pruning.grda` for the notation.

    ``lr`` may be a tensor on the device, which is never read by the host.
    """

    def __init__(
        self,
        lr: float | Tensor,
        c: float,
        mu: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        power: int = 1,
    ) -> None:
        self.lr, self.c, self.mu = lr, c, mu
        self.momentum, self.nesterov, self.weight_decay, self.maximize = momentum, nesterov, weight_decay, maximize
        self.power = power
        self.waiting: dict[Any, list[tuple[Any, ...]]] = {}

    def add(self, w: Tensor, v: Tensor, d: Tensor | None, g: Tensor, n: Tensor, buffer: Tensor | None = None) -> None:
        """Enqueue an update of tensors that :func:`fits`.

        With a gradient d, what SGD makes of it (decay, momentum in ``buffer``, which starts at zero) is subtracted from
        v, lr times; without one, w holds what another optimizer made of the weights, and v moves by the difference.
        """
        self.waiting.setdefault((w.device, w.dtype, None if d is None else d.dtype), []).append((w, v, d, buffer, g, n))

    def flush(self) -> None:
        """Update what waits."""
        if not self.waiting:
            return
        kernels = _kernels()
        for (device, weight, gradient), rows in self.waiting.items():
            layout = _layout(device, tuple(row[0].numel() for row in rows))
            table = _table(device, tuple(0 if t is None else t.data_ptr() for row in rows for t in row), layout)
            sizes, block_row, block_start = layout
            # What the first kernel finds, for the second: the old and the new threshold of each tensor.
            thresholds = torch.empty(2, len(rows), dtype=torch.float32, device=device)
            if isinstance(self.lr, Tensor):
                on_device, lr, factor = True, self.lr.to(device), self.c
            else:
                on_device, lr, factor = False, self.lr, self.c * self.lr ** (0.5 + self.mu)
            with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
                kernels.raise_thresholds[(-(-len(rows) // _TENSORS_PER_BLOCK),)](
                    table, thresholds, len(rows), lr, *_in_two(factor), *_in_two(self.mu), on_device, _TENSORS_PER_BLOCK
                )
                kernels.update[(len(block_row),)](
                    table,
                    thresholds,
                    sizes,
                    block_row,
                    block_start,
                    len(rows),
                    lr,
                    float(self.momentum),
                    float(self.weight_decay),
                    kernels.TYPES[weight],
                    kernels.TYPES[gradient],
                    on_device,
                    self.momentum != 0,
                    bool(self.nesterov),
                    self.weight_decay != 0,
                    bool(self.maximize),
                    self.power,
                    _ELEMENTS_PER_BLOCK,
                )
            changed = [t for w, v, _, buffer, *_ in rows for t in (w, v, buffer) if t is not None]
            # So that autograd notices a change between forward and backward, as it does for torch's operations.
            torch.autograd.graph.increment_version(changed)
        self.waiting = {}


def _in_two(x: float) -> tuple[float, float]:
    """A double as the sum of two floats, of 48 bits, for numbers travel to a kernel as float32."""
    high = torch.tensor(x, dtype=torch.float32).item()
    return high, x - high


@lru_cache(maxsize=64)
def _layout(device: torch.device, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """On the device: the sizes, and for each block the row of its tensor and its first element there."""
    size = torch.tensor(sizes, dtype=torch.int64)
    blocks = (size + _ELEMENTS_PER_BLOCK - 1) // _ELEMENTS_PER_BLOCK
    row = torch.repeat_interleave(torch.arange(len(sizes)), blocks)
    start = (torch.arange(len(row)) - (blocks.cumsum(0) - blocks)[row]) * _ELEMENTS_PER_BLOCK
    return size.to(device), row.to(device, torch.int32), start.to(device)


# A CUDA graph copies its table anew at every replay and reads its layout, so both have to outlive it.
_captured: list[Any] = []


def _table(device: torch.device, addresses: tuple[int, ...], layout: tuple[Tensor, ...]) -> Tensor:
    """The addresses on the device; the same table while gradients stay where they are."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        host = torch.tensor(addresses, dtype=torch.int64, pin_memory=True)
        _captured.append((host, layout))
        return host.to(device, non_blocking=True)
    return _upload(device, addresses)


@lru_cache(maxsize=64)
def _upload(device: torch.device, addresses: tuple[int, ...]) -> Tensor:
    return torch.tensor(addresses, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
