"""One pass over all parameters of a group on CUDA: two Triton launches, whatever the number of tensors.

The first raises the thresholds, one lane a tensor, with the clocks on the device; the second updates all tensors, each
block some thousand elements of one of them, found through a table of addresses. Float32 moves 16 bytes a parameter,
bfloat16 and float16 weights 12: gradient and dual are read, dual and weight written.
"""

from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from struct import pack, unpack
from typing import Any

import torch
from torch import Tensor

__all__ = ["available", "update"]


# So that a thread needs some 80 registers, and several blocks share a multiprocessor, one loading while another stores.
_ELEMENTS_PER_BLOCK = 2048
_TENSORS_PER_BLOCK = 128
# The columns of a row in table.h, its column of the number of elements, and the types as table.c numbers them.
_COLUMNS, _SIZE = 10, 6
_TYPES = (None, torch.float32, torch.bfloat16, torch.float16)


@lru_cache(maxsize=1)
def _kernels() -> Any:
    """The module of the kernels, imported at its first use, because importing Triton takes long."""
    try:
        return import_module(".cuda_kernels", __package__)
    except ImportError:  # no Triton on this machine: torch's operations are used
        return None


def available() -> bool:
    """Whether there can be tensors on CUDA, and Triton is installed.

    CUDA is not initialized by asking: a process that does not use it may still be forked.
    """
    return torch.cuda.is_initialized() and _kernels() is not None


def update(
    kind: int,
    table: bytearray,
    lr: float | Tensor,
    c: float,
    mu: float,
    sgd: tuple[float, float, bool, bool],
    power: int,
    of_zeros: float = 1.0,
) -> None:
    """Update the rows of a table; see :func:`~directional_pruning.optim.kernels.update`.

    Args:
        kind: the device's index plus 1, and the places in ``_TYPES`` of the weights' and the gradients' type, four bits
            each; 0 for the device is the CPU, where Triton can only interpret.
        table: rows as in ``table.h``.
        lr: a number, or a tensor on any device.
        sgd: momentum, weight decay, Nesterov, maximize.
        power: of the cut, 0 for the hard cut; of_zeros: factor on the gradients of zeros.
    """
    momentum, weight_decay, nesterov, maximize = sgd
    index, weight, gradient = kind >> 8, _TYPES[kind >> 4 & 15], _TYPES[kind & 15]
    device = torch.device("cuda", index - 1) if index else torch.device("cpu")
    kernels, rows = _kernels(), len(table) // (8 * _COLUMNS)
    # The old and the new threshold of each tensor, from the first kernel for the second.
    thresholds = torch.empty(2, rows, dtype=torch.float32, device=device)
    if isinstance(lr, Tensor):
        rate, factor = lr.to(device), c
    else:
        rate, factor = lr, c * lr ** (0.5 + mu)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        on_device, block_row, block_start = _on_device(device, bytes(table))
        kernels.raise_thresholds[(-(-rows // _TENSORS_PER_BLOCK),)](
            on_device,
            thresholds,
            rows,
            rate,
            *_in_two(factor),
            *_in_two(mu),
            isinstance(lr, Tensor),
            _COLUMNS,
            _TENSORS_PER_BLOCK,
        )
        kernels.update[(len(block_row),)](
            on_device,
            thresholds,
            block_row,
            block_start,
            rows,
            rate,
            float(momentum),
            float(weight_decay),
            float(of_zeros),
            kernels.TYPES[weight],
            kernels.TYPES[gradient],
            isinstance(lr, Tensor),
            momentum != 0,
            bool(nesterov),
            weight_decay != 0,
            bool(maximize),
            of_zeros != 1,
            power,
            _COLUMNS,
            _SIZE,
            _ELEMENTS_PER_BLOCK,
        )


def _in_two(x: float) -> tuple[float, float]:
    """A double as the sum of two floats, 48 bits in all: a kernel gets its numbers as float32."""
    (high,) = unpack("f", pack("f", x))
    return high, x - high


# A CUDA graph copies its table again at every replay and reads its blocks, so they must live as long as the graph.
_captured: list[Any] = []


def _on_device(device: torch.device, table: bytes) -> tuple[Tensor, Tensor, Tensor]:
    """The table, and for each block the row of its tensor and its first element there."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        host = torch.frombuffer(bytearray(table), dtype=torch.int64).pin_memory()
        blocks = _blocks(device, _sizes(host))
        _captured.append((host, blocks))
        return host.to(device, non_blocking=True), *blocks
    return _upload(device, table, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0)


@lru_cache(maxsize=64)
def _upload(device: torch.device, table: bytes, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same table while gradients stay where they are; one for each stream, on which it is made and used."""
    host = torch.frombuffer(bytearray(table), dtype=torch.int64)
    blocks = _blocks(device, _sizes(host))
    if device.type == "cuda":
        host = host.pin_memory()
        # They were made on the stream of their first use: their memory must outlast the work of this one too.
        for t in blocks:
            t.record_stream(torch.cuda.current_stream(device))
    return host.to(device, non_blocking=True), *blocks


def _sizes(table: Tensor) -> tuple[int, ...]:
    return tuple(table.view(-1, _COLUMNS)[:, _SIZE].tolist())


@lru_cache(maxsize=64)
def _blocks(device: torch.device, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    blocks = (torch.tensor(sizes) + _ELEMENTS_PER_BLOCK - 1) // _ELEMENTS_PER_BLOCK
    row = torch.repeat_interleave(torch.arange(len(sizes)), blocks)
    start = (torch.arange(len(row)) - (blocks.cumsum(0) - blocks)[row]) * _ELEMENTS_PER_BLOCK
    return row.to(device, torch.int32), start.to(device)
