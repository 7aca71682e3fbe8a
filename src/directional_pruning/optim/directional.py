"""Any torch optimizer, made to end sparse the way gRDA does.

Notation of the paper: w the weights, v their dual, n the number of updates, g the threshold.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ..tensors import local_tensor
from . import checks, kernels
from .base_steps import check_base, watch_steps
from .checks import check, refusal_of_directional
from .dual_averaging import GRDA
from .follow import Row, follow_base
from .gradients_of_zeros import scale_gradients_of_zeros
from .group_values import check_changed, check_directional, make_plain
from .loading import load_uncast
from .state import add_checked_group, place, resolve_rate, start_dual, unmoved_duals
from .target import Target
from .target_threshold import cut_at_targets

__all__ = ["Directional"]


class Directional(Optimizer):
    r"""Wraps an optimizer so that its updates move a dual variable, whose soft-thresholded copy is the weights.

    .. math::
        w' &= \text{base}(w_{n-1}, \nabla f(w_{n-1})) \\
        v_n &= v_{n-1} + (w' - w_{n-1}), \qquad v_0 = w_0 \\
        g_n &= g_{n-1} + c\, lr^{1/2+\mu} (n^\mu - (n-1)^\mu), \qquad g_0 = 0 \\
        w_n &= S_{g_n}(v_n) = \operatorname{sign}(v_n) \max(|v_n| - g_n, 0)

    ``Directional(SGD(params, lr), c, mu)`` is ``GRDA(params, lr, c, mu)`` up to rounding, and with ``c = 0`` it is the
    base, bit for bit. The base sees the weights themselves: its weight decay pulls on what the network uses, and leaves
    the dual of a pruned weight alone. A change of the weights from outside goes into the dual.

    The law of the threshold is the same for every base; its time is the sum of the learning rates. Adam, Muon and their
    like move a weight by about lr a step, whatever the gradient, so noise alone carries the dual sqrt(n) * lr far. What
    has not outgrown the threshold, of order c * sqrt(lr) * (n * lr)^mu, has only diffused. The unit of c differs: for
    SGD it is the scale of the gradient's noise, for those bases 1, so they need a larger c, of order 1. Under a falling
    rate the growth ends by itself: most zeros are there when half of the steps are done.

    Soft-thresholding takes the threshold from every survivor. Under bases whose steps do not scale with the gradient,
    and rates that fall soon, a ``power`` above 1 came out better (see docs/characters.md): it keeps the zeros and the
    continuity of soft-thresholding and shrinks a survivor the less, the larger it is:

    .. math:: w_n = v_n \left(1 - (g_n / |v_n|)^p\right) \text{ where } |v_n| > g_n, \text{ else } 0

    At twice the threshold a weight loses 1/2 of itself with p = 1, which is soft-thresholding, 1/4 with p = 2, the
    non-negative garrote of L. Breiman (1995), and 1/16 with p = 4.

    Args:
        base_optimizer: an optimizer over the parameters; its groups, hyper-parameters and state become this one's. Use
            its ``lr`` through either; call ``step`` of this one only. A group's own ``c`` and ``mu`` are kept, so
            :func:`~directional_pruning.prunable_groups` works.
        c: strength of pruning, >= 0. 0 is the base.
        mu: growth of the threshold over time, in (0, 1].
        power: p above, >= 1. 1 is gRDA; 4 suits bases whose steps do not scale with the gradient. 1, 2, 4, 8 and 16
            are fast.
        target: the share of zeros to end with, instead of the law. Then c (but for whether it is 0), mu and power do
            not count.

    Memory: one buffer the size of the parameters beside the base's, float32 for half-precision parameters.

    Raises:
        TypeError: if ``base_optimizer`` is not a torch optimizer, or prunes by itself.
        ValueError: for ``c``, ``mu`` or ``power`` out of range, naming the value, also in ``step`` where they or ``lr``
            were set later; for complex parameters and for negated views.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.01]))
        >>> optimizer = Directional(torch.optim.SGD([w], lr=0.1), c=0.5, mu=0.5)
        >>> w.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()  # g = 0.5 * 0.1 = 0.05
        >>> torch.testing.assert_close(w.detach(), torch.tensor([1.0 - 0.1 - 0.05, 0.0]))

    Source: the method of S.-K. Chao, Z. Wang, Y. Xing, G. Cheng, Directional Pruning of Deep Neural Networks, NeurIPS
    2020, with the gradient step replaced by the base's.
    """

    _unmoved: set[Tensor] | None = None  # see unmoved_duals

    def __init__(
        self,
        base_optimizer: Optimizer,
        c: float = 0.005,
        mu: float = 0.51,
        *,
        power: float = 1,
        target: Target | None = None,
    ) -> None:
        check_base(base_optimizer, (GRDA, Directional))
        make_plain(base_optimizer.defaults)
        defaults = {**base_optimizer.defaults, "c": c, "mu": mu, "power": power, "target": target}
        make_plain(defaults)
        check(defaults, checks.DIRECTIONAL)
        self.base = base_optimizer
        state, groups = base_optimizer.state, base_optimizer.param_groups
        try:
            super().__init__(groups, defaults)
        except BaseException:
            self.base.param_groups = groups
            raise
        finally:
            self.base.state = state
        self._base_steps = watch_steps(self.base, self)

    # State and groups are those of the base: a scheduler or a loaded state dict that changes one changes both.
    @property
    def state(self) -> Any:
        """The base's state of each parameter, and in it the dual, the threshold and the number of updates."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's parameter groups, each with its ``c``, ``mu`` and ``power``."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base, with this optimizer's ``c``, ``mu`` and ``power`` where it has none of its own."""
        group = {**{key: self.defaults[key] for key in checks.DIRECTIONAL}, **param_group}
        make_plain(group)
        check(group, checks.DIRECTIONAL)
        add_checked_group(self, self.base.add_param_group, group, refusal_of_directional)

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "base": self.base}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, or take the loaded state and groups, as ``Optimizer.load_state_dict`` asks."""
        if "base" in state:
            super().__setstate__(state)
            self._base_steps = watch_steps(self.base, self)
        else:
            self.base.__setstate__(state)
        for group in self.param_groups:
            group.setdefault("power", 1)
            group.setdefault("target", None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave; dual, update counter and threshold keep the precision they were saved in.

        Raises:
            ValueError: for the state of another optimizer or of parameters of another shape; nothing is loaded then.
        """
        load_uncast(
            self,
            super().load_state_dict,
            state_dict,
            buffers={"dual": "c"},
            scalars={"threshold": torch.float64, "updates": torch.float32},
            check=lambda group: check({"power": 1, "target": None, **group}, checks.DIRECTIONAL),
        )
        self._unmoved = None

    def state_dict(self) -> dict[str, Any]:
        """The state and the groups of the base, with numbers of NumPy made Python's."""
        for group in self.param_groups:
            make_plain(group)
        return super().state_dict()

    # Under torch.compile the step stays as it is: one break in the graph, for any base.
    @torch._disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update by the base, then of the dual and the weights; ``closure`` is handed to the base."""
        check_groups = partial(check_changed, self, partial(check_directional, states=self.state))
        check_groups()

        def prepare() -> None:
            if closure is not None:
                check_groups()  # the closure may set values too
            scale_gradients_of_zeros(self.param_groups, self.state, counter="updates")

        loss = self._base_steps.step(self.base, closure, prepare)
        unmoved = unmoved_duals(self, "updates")
        for group in self.param_groups:
            lr = resolve_rate(group["lr"], on_device=bool(group.get("capturable")))
            # Also at a rate of 0 this makes the state, which distributed checkpoints need before they load.
            first, later = self._collect(group, unmoved)
            if isinstance(lr, Tensor) or lr != 0:
                follow_base(group, lr, first, later)
        cut_at_targets(self.param_groups, self.state, counter="updates")
        return loss

    def _collect(self, group: dict[str, Any], unmoved: set[Tensor]) -> tuple[list[Row], list[Row]]:
        """Weights, dual, threshold and update counter of each parameter to prune: those of a first update, and others.

        At the first update the dual is a copy of what the base made of the weights. Of a DTensor they are the local
        shard: all that this process has to update.
        """
        first: list[Row] = []
        later: list[Row] = []
        on_cuda, capturable = kernels.available(cuda_too=True), group.get("capturable")
        states, any_pruned = self.state, any(each["c"] > 0 for each in self.param_groups)
        for w in group["params"]:
            if w.grad is None:
                continue
            if not (group["c"] > 0 or "dual" in states.get(w, {})):
                # A distributed checkpoint needs the state of all parameters or of none, and SGD alone has none.
                if any_pruned and not states.get(w):
                    states[w]["updates"] = torch.tensor(0.0, dtype=torch.float32)
                continue
            state = states[w]
            rows = later
            if "dual" not in state:
                rows = first
                start_dual(w, state)
                state["updates"] = torch.tensor(0.0, dtype=torch.float32)
                self._unmoved = None
            elif unmoved and w in unmoved:
                rows = first
                state["dual"].copy_(w)
            # g and n live on the device for its kernels and for graphs that are replayed; else the host reads them.
            on_device = capturable or (on_cuda and w.is_cuda)
            if on_device or not state["updates"].is_cpu:
                place(state, ("threshold", "updates"), w.device if on_device else torch.device("cpu"))
            v = state["dual"]
            if type(w) is not Parameter:
                w, v = local_tensor(w), local_tensor(v)
            rows.append((w, v, state["threshold"], state["updates"]))
        return first, later
