"""The base of Directional: which optimizers it may be, and a warning where it steps by itself."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from torch.optim import Optimizer

from ..caller import warn_caller

__all__ = ["BaseSteps", "check_base", "watch_steps"]

Closure = Callable[[], float]


class BaseSteps:
    """A hook before each step of a base: warns once of a step that its wrapper has not announced."""

    def __init__(self) -> None:
        # Weak: a base whose wrappers are gone steps as it likes.
        self.wrappers: WeakSet[Optimizer] = WeakSet()
        self.expected = self.warned = False

    def step(self, base: Optimizer, closure: Closure | None, prepare: Callable[[], None]) -> float | None:
        """A step of the base for its wrapper, which prepares it: after each call of the closure, where there is one."""

        def both() -> float:
            loss = closure()  # pyrefly: ignore
            prepare()
            return loss

        if closure is None:
            prepare()
        self.expected = True
        try:
            return base.step(closure and both)
        finally:
            self.expected = False

    def __call__(self, base: Optimizer, *_: Any) -> None:
        """Warn where the base steps by itself."""
        if self.expected or self.warned or not self.wrappers:
            return
        self.warned = True
        warn_caller(
            f"step of the base {type(base).__name__} was called, which moves weights without pruning them "
            "(call step of Directional instead)"
        )


def check_base(base: Any, pruning: tuple[type[Optimizer], ...]) -> None:
    """Raise TypeError for what is no optimizer, and for one that is of the ``pruning`` types, or wraps one of them."""
    name = type(base).__name__
    if not isinstance(base, Optimizer):
        raise TypeError(f"invalid base_optimizer: {name} (must be a torch optimizer)")
    inner = base
    while isinstance(getattr(inner, "optimizer", None), Optimizer):  # as Accelerate wraps
        inner = inner.optimizer  # pyrefly: ignore
    if isinstance(inner, pruning):
        raise TypeError(f"invalid base_optimizer: {name} (it prunes by itself: use it as it is, or wrap SGD or AdamW)")


def watch_steps(base: Optimizer, wrapper: Optimizer) -> BaseSteps:
    """The hook of a base; wrappers of the same base share it. Copies and pickles of an optimizer have no hooks."""
    # An optimizer that never called Optimizer.__init__, as some that wrap another, has no hooks to run.
    hooks = base.__dict__.setdefault("_optimizer_step_pre_hooks", OrderedDict())
    hook = next((hook for hook in hooks.values() if isinstance(hook, BaseSteps)), None)
    if hook is None:
        hook = BaseSteps()
        base.register_step_pre_hook(hook)
    hook.wrappers.add(wrapper)
    return hook
