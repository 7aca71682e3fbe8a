"""Lock the zeros of a network, so that no optimizer changes them."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..tensors import LOCKED, local_tensor

__all__ = ["FrozenZeros", "freeze_zeros"]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def freeze_zeros(model: nn.Module) -> "FrozenZeros":
    """Lock every zero of every floating-point parameter: after each step of any optimizer it is exactly +0.0 again.

    With K the positions that are nonzero now, training becomes that of the restricted network

        w <- P(step(w, P grad f(w))),    P x = x on K and +0.0 elsewhere,

    for every ``step``: with momentum, moments, weight decay or a preconditioner. The gradient is cleared as soon as it
    is accumulated. So gradient clipping, and optimizers that take norms, see the restricted network only. ``-0.0`` is
    a zero and becomes +0.0. Zeros of biases, and of layers initialised at zero, are locked too: if such a layer must
    still be trained, freeze the other submodules.

    Works with every ``torch.optim.Optimizer``, GRDA and Directional included, with closures, gradient accumulation,
    AMP, DDP and FSDP2. Wrap by DDP or FSDP2 before or after (on DDP, freeze the same weights on every process).
    It costs one byte of memory for each element of a tensor that has a zero.

    - Parameters stay the same objects, and ``state_dict`` has the same keys and contains the zeros.
      A network that loads it is not frozen; freeze it, and the same weights are locked. So load first, then freeze:
      other weights loaded into a frozen network become zero outside K at the next step.
    - A deepcopy or a pickled copy of the network is an ordinary network. The zeros stay locked as long as the network
      exists, even if nothing refers to the returned handle.
    - A parameter that replaces a frozen one, as in ``fully_shard``, is locked at the zeros it has when an optimizer
      first steps with it.
    - If other code than a torch optimizer writes weights (``load_state_dict``, averaging by hand, an optimizer with
      its own float32 master copies), the zeros are restored at the next step, or by ``handle.apply()``.
    - Outside K, NaN and infinity become +0.0 too; on K both stay, so that checks for them still work. Gradients in a
      sparse layout, or with their own graph (``create_graph=True``), are not changed; the weights are.
    - Integer parameters are not locked: no optimizer changes them.
    - ``torch.compile`` of the network changes nothing. If a training step is compiled, the masking runs outside of its
      graph.

    Args:
        model: the network, or the part of it, to lock.

    Returns:
        A handle with ``remove()`` and ``apply()``; after ``with freeze_zeros(model): ...`` the zeros are unlocked.

    Raises:
        TypeError: if ``model`` is not a module.
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
    """Locks the zeros of a network until :meth:`remove`; created by :func:`freeze_zeros`."""

    def __init__(self, model: nn.Module) -> None:
        # (module, name) because another parameter may replace this one; weak so that the network can be freed.
        self._locations = [(weakref.ref(module), name) for module in model.modules() for name in module._parameters]
        self._locks: dict[int, _Lock] = {}
        for p in model.parameters():
            self._add_lock(p)
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set every locked weight to +0.0 now; needed only after code that is not a torch optimizer wrote weights."""
        for lock in list(self._locks.values()):
            lock.clear(lock.parameter())

    def remove(self) -> None:
        """Unlock the zeros: from now on all weights train. A second call changes nothing."""
        for hook in [*self._hooks, *(lock.hook for lock in list(self._locks.values()))]:
            if hook is not None:
                hook.remove()
        self._hooks, self._locks = [], {}

    def __enter__(self) -> "FrozenZeros":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _add_lock(self, p: Tensor) -> None:
        LOCKED[p] = True
        self._locks[id(p)] = _Lock(p, partial(_drop_lock, self._locks, id(p)))

    @torch._disable_dynamo
    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        unlocked = {id(p) for group in optimizer.param_groups for p in group["params"]} - self._locks.keys()
        if not unlocked or not self._locations:
            return
        locations = [(module, name) for reference, name in self._locations if (module := reference()) is not None]
        if not locations:  # The network was freed. The hooks are running, so they cannot be removed here.
            self._locations = []
        for module, name in locations:
            p = module._parameters.get(name)
            if p is not None and id(p) in unlocked and id(p) not in self._locks:
                self._add_lock(p)
                self._locks[id(p)].clear_gradient(p)

    @torch._disable_dynamo
    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if id(p) in self._locks:
                    self._locks[id(p)].clear(p.data)  # without a new version, which stands for a write from outside


class _Lock:
    """Which elements of one parameter (of its local shard) are nonzero, and the hook on its gradient."""

    def __init__(self, p: Tensor, on_delete: Callable[[Any], None]) -> None:
        self.parameter = weakref.ref(p, on_delete)
        self.nonzero: Tensor | None = None  # None if nothing is locked
        if p.is_floating_point() or p.is_complex():
            nonzero = local_tensor(p.detach()) != 0
            self.nonzero = None if bool(nonzero.all()) else nonzero
        hooked = self.nonzero is not None and p.requires_grad
        self.hook = p.register_post_accumulate_grad_hook(self.clear_gradient) if hooked else None

    def clear(self, t: Tensor | None) -> None:
        """Set the locked elements to +0.0."""
        if t is None or self.nonzero is None:
            return
        shard = local_tensor(t)
        if shard.shape != self.nonzero.shape:  # a gradient that is sharded in another way
            return
        if self.nonzero.device != shard.device:
            self.nonzero = self.nonzero.to(shard.device)
        mask = self.nonzero
        if shard.is_complex():
            shard, mask = torch.view_as_real(shard), mask.unsqueeze(-1)
        # The bits times 0 or 1: NaN and -0.0 become +0.0 as well, and on a CPU it takes a third of masked_fill's time.
        shard.view(_BITS[shard.itemsize]).mul_(mask)

    @torch.no_grad()
    def clear_gradient(self, p: Tensor) -> None:
        grad = p.grad
        if grad is not None and grad.layout is torch.strided and not grad.requires_grad:
            self.clear(grad)


def _drop_lock(locks: dict[int, _Lock], key: int, _: Any) -> None:
    locks.pop(key, None)
