"""Lock the zeros of a network, so that no optimizer changes them."""

import sys
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .locks import Lock, Place

__all__ = ["FrozenZeros", "freeze_zeros"]


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

    - Parameters stay the same objects, and ``state_dict`` has the same keys and contains the zeros. Another network
      that loads it is not frozen; freeze it, and the same weights are locked.
    - A frozen network that loads a state dict stays frozen, also with ``assign=True``: the loaded weights become zero
      outside K at the next step. So load first, then freeze.
    - A deepcopy or a pickled copy of the network is an ordinary network. The zeros stay locked as long as the network
      exists, even if nothing refers to the returned handle.
    - K belongs to the layer. It stays through ``to``, ``half``, ``to_empty`` and swapped tensors, and through a
      parametrization registered later that makes zero of zero, as weight and spectral normalisation and ``prune`` do.
      Another parametrization unlocks its weight, with a warning that names it.
    - A parameter that you assign, ties included, or that is sharded, as by ``fully_shard``, is locked at the zeros it
      has when an optimizer first steps with it.
    - Under ``GRDA`` and ``Directional`` momentum from before may move the dual of a locked weight beyond the threshold.
      The weight stays zero; after ``remove()`` it may come back at the next step.
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
        self._places: list[Place] = []
        locks: dict[int, Lock] = {}
        for prefix, module in model.named_modules():
            # Weak so that the network can be freed.
            reference = weakref.ref(module, partial(_drop, self._places))
            for key, p in module._parameters.items():
                if p is not None and id(p) not in locks:
                    locks[id(p)] = Lock(module, p)
                lock = None if p is None else locks[id(p)]
                self._places.append(Place(reference, key, f"{prefix}.{key}".lstrip("."), lock))
        self._hooks: list[Any] = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
            register_module_parameter_registration_hook(self._on_assignment),
        ]
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set every locked weight to +0.0 now; needed only after code that is not a torch optimizer wrote weights."""
        for place in list(self._places):
            p = place.parameter()
            if place.lock is not None and p is not None:
                self._follow(place, p)
                place.lock.clear(p)

    def remove(self) -> None:
        """Unlock the zeros: from now on all weights train. A second call changes nothing."""
        for hook in [*self._hooks, *(place.lock.hook for place in self._places if place.lock is not None)]:
            if hook is not None:
                hook.remove()
        self._hooks = []
        self._places.clear()

    def __enter__(self) -> "FrozenZeros":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _follow(self, place: Place, p: Tensor) -> None:
        """Lock the parameter that is in the place now."""
        module = place.module()
        if place.lock is not None and place.lock.holds(p):
            place.lock.hook_gradient(p)
        elif module is not None:
            tied = [o.lock for o in self._places if o.lock is not None and o.lock.holds(p) and o.parameter() is p]
            place.lock = tied[0] if tied else Lock(module, p, None if place.lock is None else place.lock.nonzero)

    @torch._disable_dynamo
    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for place in list(self._places):
            p = place.parameter()
            if p is not None and id(p) in trained:
                self._follow(place, p)
            place.warn_if_lost()

    @torch._disable_dynamo
    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for place in list(self._places):
            p = place.parameter()
            if place.lock is not None and p is not None and id(p) in trained:
                trained.remove(id(p))  # once where it is shared
                place.lock.clear(p.data)  # without a new version, which stands for a write from outside

    def _on_assignment(self, module: nn.Module, key: str, p: Tensor | None) -> None:
        """Lock what ``load_state_dict(assign=True)`` puts in place at the same zeros, what the user does at its own."""
        for place in self._places:
            lock = place.lock
            if (
                place.module() is module
                and place.key == key
                and lock is not None
                and not (p is not None and lock.holds(p))
            ):
                loads = sys._getframe(3).f_code.co_name == "_load_from_state_dict"
                place.lock = Lock(module, p, lock.nonzero) if loads and p is not None else None


def _drop(places: list[Place], reference: Any) -> None:
    places[:] = [place for place in places if place.module is not reference]
