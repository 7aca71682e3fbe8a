"""The compiled extension: it gathers what the kernels can update, and updates it on the CPU in one pass over memory.

torch needs three operations for an update, each of which reads and writes memory. The kernel moves 16 bytes a float32
parameter, 12 a bfloat16 one: it reads d and v, and writes v and w. Momentum adds 8, weight decay a reading of w.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from . import cuda as triton

__all__ = ["Batch", "available", "fits"]


def _load() -> Any:
    try:
        extension = import_module("._native", __package__)
        extension.connect(torch.Tensor.__dlpack_c_exchange_api__, Tensor, nn.Parameter)  # pyrefly: ignore
    # No compiler at installation, or a torch that can be asked otherwise: its operations do the same, slower.
    except (ImportError, AttributeError, ValueError):
        return None
    return extension


_native = _load()

# Fewer elements than this are not worth waking a second thread; more than this do not stay in the caches anyway.
_ELEMENTS_PER_THREAD = 2**17
_STREAMING_ELEMENTS = 2**21
# A fork has none of the threads that OpenMP believes it has, and would wait for them for ever.
_process = os.getpid()


def available(*, cuda: bool = False) -> bool:
    """Whether the extension was compiled and, for tensors on CUDA, the kernels can be used."""
    return _native is not None and (not cuda or triton.available())


def fits(
    w: Tensor,
    v: Tensor,
    d: Tensor | None,
    g: Tensor | None = None,
    n: Tensor | None = None,
    buffer: Tensor | None = None,
) -> bool:
    """Whether :meth:`Batch.add` would take these; a scalar that is not given would fit."""
    if w.device.type not in ("cpu", "cuda"):
        return False
    g = torch.zeros((), dtype=torch.float64, device=w.device) if g is None else g
    n = torch.zeros((), dtype=torch.float32, device=w.device) if n is None else n
    return Batch(0.0, 0.0, 1.0).add(w, v, d, g, n, buffer)


class Batch:
    """Updates that wait for one call of the kernels; see :func:`~directional_pruning.grda` for the notation.

    With a gradient d, what SGD makes of it (decay, momentum in a buffer, which starts at zero) is subtracted from v, lr
    times; without one, w holds what another optimizer made of the weights, and v moves by the difference. ``lr`` may be
    a tensor on CUDA, which the host never reads.

    w, v, d and the momentum buffer have to be plain tensors of one shape and one dense layout on one device, the CPU or
    CUDA, and not negated views: w float32 or bfloat16, on CUDA float16 too, d the same or float32, v and the buffer
    float32; g a float64 and n a float32 scalar beside them. On CUDA they begin at multiples of 16 bytes.
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
        self.lr, self.c, self.mu, self.power = lr, c, mu, power
        self.momentum, self.nesterov, self.weight_decay, self.maximize = momentum, nesterov, weight_decay, maximize
        # On the CPU the rate is a number.
        where = (not isinstance(lr, Tensor)) | triton.available() << 1
        # Tables of updates by their kind, the tensors they change, and others they read, which have to live until then.
        self._waiting: tuple[dict[int, bytearray], list[Tensor], list[Tensor], int] = ({}, [], [], where)

    def add(self, w: Tensor, v: Tensor, d: Tensor | None, g: Tensor, n: Tensor, buffer: Tensor | None = None) -> bool:
        """Enqueue an update and return True, or False where the kernels, which see bare addresses, cannot make it."""
        return _native is not None and _native.add(*self._waiting, w, v, d, g, n, buffer)

    def gather(
        self, params: Sequence[Tensor], state: dict[Tensor, Any], clock: str, *, follow: bool = False
    ) -> list[int]:
        """Enqueue the updates of all parameters that can be, and return the indices of the others.

        Args:
            state: of each parameter a dictionary of its tensors, v under "dual", g under "threshold", the buffer under
                "momentum_buffer" and n under ``clock``. Where one is missing the parameter is among the others, but not
                where it has no gradient.
            follow: whether another optimizer has used the gradients and moved the weights.
        """
        if _native is None or not isinstance(state, dict):
            return list(range(len(params)))
        return _native.gather(*self._waiting, params, state, clock, follow, self.momentum != 0)

    def flush(self) -> None:
        """Update what waits, on the CPU on as many threads as torch uses."""
        tables, changed, kept, _ = self._waiting
        sgd = self.momentum, self.weight_decay, self.nesterov, self.maximize, self.power
        for kind, table in tables.items():
            if kind:
                triton.update(kind, table, self.lr, self.c, self.mu, *sgd)
            else:
                scale = self.c * self.lr ** (0.5 + self.mu)
                threads = torch.get_num_threads() if os.getpid() == _process else 1
                limits = threads, _ELEMENTS_PER_THREAD, _STREAMING_ELEMENTS
                _native.update(table, scale, self.mu, self.lr, *sgd, *limits)
        if changed:
            # So that autograd notices a change between forward and backward, as it does for torch's operations.
            torch.autograd.graph.increment_version(changed)
        for done in (tables, changed, kept):
            done.clear()
