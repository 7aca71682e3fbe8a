"""Lock the zeros of a network, whatever trains it from then on."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..tensors import local_tensor

__all__ = ["FrozenZeros", "freeze_zeros"]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def freeze_zeros(model: nn.Module) -> "FrozenZeros":
    """Lock every zero of every floating-point parameter: after each step of any optimizer it is exactly +0.0 again.

    With K the positions that are nonzero now, training becomes that of the restricted network

        w <- P(step(w, P grad f(w))),    P x = x on K and +0.0 elsewhere,

    whatever ``step`` does with momentum, moments, weight decay or a preconditioner. The gradient is cleared as soon as
    it has been accumulated, so that clipping and the norms that some optimizers take see the restricted network alone.
    ``-0.0`` is a zero and becomes +0.0. Zeros of biases and of layers that start from zero count too: to spare a head
    that is still to be trained, freeze the other submodules.

    Works with every ``torch.optim.Optimizer``, GRDA and Directional included, with closures, gradient accumulation,
    AMP, DDP and FSDP2; a DDP or FSDP2 wrap may come before or after (on DDP, freeze the same weights on every process).
    It costs one byte of memory for each element of a tensor that has a zero.

    - What does not change: parameters stay the objects they are, and ``state_dict`` keeps its keys and holds the zeros.
      A network that loads it is not frozen; freeze it, and the same weights are locked. So load first, then freeze:
      other weights loaded into a frozen network lose what lies off K at the next step.
    - A deepcopy or a pickled copy of the network is an ordinary network. The zeros stay locked without the returned
      handle being kept, as long as the network lives.
    - A parameter put in the place of a frozen one, as ``fully_shard`` does, is locked at the zeros it has when an
      optimizer first steps with it.
    - What writes weights without being a torch optimizer (``load_state_dict``, weights averaged by hand, an optimizer
      with float32 master copies of its own) is put right at the next step, or by ``handle.apply()``.
    - Off K nothing survives, a NaN or an infinity neither; on K both stay, for whoever watches for them. Gradients in a
      sparse layout, or with a graph of their own (``create_graph=True``), are left as they are; the weights are not.
    - Integer parameters are left alone: no optimizer changes them.
    - ``torch.compile`` of the network changes nothing; of a training step, the masking stays outside of the graph.

    Args:
        model: the network, or the part of it, to lock.

    Returns:
        A handle with ``remove()`` and ``apply()``; ``with freeze_zeros(model): ...`` removes it at the end.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: for a parameter without values, lazy or on the meta device: load the weights first.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight = nn.Parameter(torch.tensor([[1.0, -0.0]]))
    >>> handle = freeze_zeros(layer)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.25, momentum=0.9)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> layer.weight.tolist()
    [[0.75, 0.0]]
    >>> handle.remove()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"cannot freeze the zeros of {type(model).__name__}: not a module")
    for name, p in model.named_parameters():
        if is_lazy(p) or p.is_meta:
            raise ValueError(f"cannot freeze the zeros of {name!r}: it has no values yet (load or initialise it first)")
    return FrozenZeros(model)


class FrozenZeros:
    """Keeps the zeros of a network locked until :meth:`remove`; made by :func:`freeze_zeros`."""

    def __init__(self, model: nn.Module) -> None:
        # Places, because another parameter may come to stand there; weakly, so that a network can be forgotten.
        self._places = [(weakref.ref(module), name) for module in model.modules() for name in module._parameters]
        self._locks: dict[int, _Lock] = {}
        for p in model.parameters():
            self._lock(p)
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set every locked weight to +0.0 now; needed only after something that is no torch optimizer."""
        for lock in list(self._locks.values()):
            lock.clear(lock.parameter())

    def remove(self) -> None:
        """Let the zeros go: from now on all weights train. A second call changes nothing."""
        for hook in [*self._hooks, *(lock.hook for lock in list(self._locks.values()))]:
            if hook is not None:
                hook.remove()
        self._hooks, self._locks = [], {}

    def __enter__(self) -> "FrozenZeros":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _lock(self, p: Tensor) -> None:
        self._locks[id(p)] = _Lock(p, partial(_forget, self._locks, id(p)))

    @torch._disable_dynamo
    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        unknown = {id(p) for group in optimizer.param_groups for p in group["params"]} - self._locks.keys()
        if not unknown or not self._places:
            return
        places = [(module, name) for reference, name in self._places if (module := reference()) is not None]
        if not places:  # The network is gone. The hooks are being called, so they cannot be removed here.
            self._places = []
        for module, name in places:
            p = module._parameters.get(name)
            if p is not None and id(p) in unknown and id(p) not in self._locks:
                self._lock(p)
                self._locks[id(p)].clear_gradient(p)

    @torch._disable_dynamo
    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if id(p) in self._locks:
                    self._locks[id(p)].clear(p)


class _Lock:
    """Where one parameter, or this process's part of it, is nonzero, and the hook on its gradient."""

    def __init__(self, p: Tensor, forget: Callable[[Any], None]) -> None:
        self.parameter = weakref.ref(p, forget)
        self.keep: Tensor | None = None
        if p.is_floating_point() or p.is_complex():
            keep = local_tensor(p.detach()) != 0
            self.keep = None if bool(keep.all()) else keep
        hooked = self.keep is not None and p.requires_grad
        self.hook = p.register_post_accumulate_grad_hook(self.clear_gradient) if hooked else None

    def clear(self, t: Tensor | None) -> None:
        """Set to +0.0 what is not kept."""
        if t is None or self.keep is None:
            return
        part = local_tensor(t)
        if part.shape != self.keep.shape:  # a gradient that is laid out over the processes in another way
            return
        if self.keep.device != part.device:
            self.keep = self.keep.to(part.device)
        keep = self.keep
        if part.is_complex():
            part, keep = torch.view_as_real(part), keep.unsqueeze(-1)
        # The bits times 0 or 1: NaN and -0.0 become +0.0 as well, and on a CPU it takes a third of masked_fill's time.
        part.view(_BITS[part.itemsize]).mul_(keep)

    @torch.no_grad()
    def clear_gradient(self, p: Tensor) -> None:
        grad = p.grad
        if grad is not None and grad.layout is torch.strided and not grad.requires_grad:
            self.clear(grad)


def _forget(locks: dict[int, _Lock], key: int, _: Any) -> None:
    locks.pop(key, None)
