"""Which elements of a parameter are locked at zero, and where in a module the parameter is."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..caller import warn_caller
from ..tensors import LOCKED, local_tensor, module_mode

__all__ = ["Lock", "Place"]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Lock:
    """Which elements of one parameter (of its local shard) are nonzero, and the hook on its gradient."""

    def __init__(self, module: nn.Module, p: Tensor, nonzero: Tensor | None = None) -> None:
        # No reference, not even a weak one: torch swaps no tensor that has one.
        self.id = id(p)
        self.nonzero: Tensor | None = None  # None if nothing is locked
        if p.is_floating_point() or p.is_complex():
            found = local_tensor(p.detach()) != 0
            self.nonzero = nonzero if nonzero is not None and nonzero.shape == found.shape else found
            self.nonzero = None if bool(self.nonzero.all()) else self.nonzero
        self.hook: Any = None
        self.address = -1
        self.hook_gradient(p)
        LOCKED[id(p)] = module

    def holds(self, p: Tensor) -> bool:
        """Whether p is the locked parameter."""
        return self.id == id(p) and (self.nonzero is None or self.nonzero.shape == local_tensor(p.detach()).shape)

    @torch.no_grad()
    def hook_gradient(self, p: Tensor) -> None:
        """Clear the gradient as soon as it is there."""
        if self.nonzero is None or not p.requires_grad:
            return
        hooks, address = p._post_accumulate_grad_hooks, local_tensor(p.detach()).data_ptr()
        if self.hook is None or self.hook.id not in (hooks or {}):
            self.hook = p.register_post_accumulate_grad_hook(self.clear_gradient)
        else:
            p._post_accumulate_grad_hooks = hooks  # torch may have swapped the tensor for one without them
        if address != self.address:
            self.address = address
            self.clear_gradient(p)

    def clear(self, t: Tensor) -> None:
        """Set the locked elements to +0.0."""
        if self.nonzero is None:
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
        """Set the gradient of the locked elements to +0.0."""
        grad = p.grad
        if grad is not None and grad.layout is torch.strided and not grad.requires_grad:
            self.clear(grad)


@dataclass(eq=False)
class Place:
    """Where a module has a parameter. Another one may come there, and the zeros stay locked."""

    module: weakref.ref[nn.Module]
    key: str
    name: str
    lock: Lock | None
    checked: bool = False

    def parameter(self) -> Tensor | None:
        """The parameter that is there now, or the one from which a parametrization computes the weight."""
        module, lock = self.module(), self.lock
        if module is None or self.key in module._parameters or lock is None or lock.nonzero is None:
            return None if module is None else module._parameters.get(self.key)
        sources = [p for p in module._parameters.values() if p is not None]
        if is_parametrized(module, self.key):
            sources += module.parametrizations[self.key].parameters()  # pyrefly: ignore
        # The same one, or as in weight_norm one that is zero where the weight is.
        alike = [p for p in sources if lock.holds(p)]
        alike += [p for p in sources if p.shape == lock.nonzero.shape and not p.detach()[~lock.nonzero].any()]
        return alike[0] if alike else None

    def warn_if_lost(self) -> None:
        """Warn, once, if a parametrization makes another number of a locked zero, and unlock it."""
        module, lock = self.module(), self.lock
        if self.checked or module is None or lock is None or lock.nonzero is None or self.key in module._parameters:
            return
        self.checked = True
        p = self.parameter()
        if p is not None and not is_parametrized(module, self.key):  # the older weight_norm and prune multiply
            return
        if p is not None:
            before = p.detach().clone()
            lock.clear(p)
            with module_mode(module, training=False):  # where a power iteration moves nothing
                if not local_tensor(getattr(module, self.key).detach())[~lock.nonzero].any():
                    return
            p.copy_(before)
        self.lock = None
        if lock.hook is not None:
            lock.hook.remove()
        warn_caller(
            f"the zeros of {self.name!r} are no longer locked, because a parametrization makes other numbers of them "
            "(remove the parametrization and call freeze_zeros again, or train without it)"
        )
