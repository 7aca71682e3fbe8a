"""gRDA: stochastic gradient descent that ends sparse.

Notation of the paper: w the weights (where the gradient is taken), v their dual variable
(what the gradient moves), n the number of updates, g the threshold, S_g soft-thresholding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ..tensors import local_tensor
from . import checks, kernels, outside
from .checks import check, label, refusal_of_grda
from .functional import update_lists
from .group_values import check_changed, check_grda, make_plain
from .kernels import SGDOptions
from .loading import load_uncast
from .state import add_checked_group, first_state, place, unmoved_duals
from .target import Target, has_target, law_of
from .target_threshold import cut_at_targets

__all__ = ["GRDA"]

_RATE_AND_MODE = ("lr", "mu", "foreach", "fused", "capturable")


class GRDA(Optimizer):
    r"""Generalised regularised dual averaging: a drop-in for ``torch.optim.SGD`` that prunes while it trains.

    .. math::
        v_n &= v_{n-1} - lr\, \nabla f(w_{n-1}), \qquad v_0 = w_0 \\
        g_n &= g_{n-1} + c\, lr^{1/2+\mu} (n^\mu - (n-1)^\mu), \qquad g_0 = 0 \\
        w_n &= S_{g_n}(v_n) = \operatorname{sign}(v_n) \max(|v_n| - g_n, 0)

    At a constant rate the threshold is ``c * lr**0.5 * (n * lr)**mu``. It grows with the learning rate of the moment
    and never falls. Every parameter counts its own updates n. A parameter without a gradient, or a step with
    ``lr = 0``, moves neither weight, dual, step counter nor threshold.

    Momentum and weight decay enter the gradient of v as they enter the gradient of w in SGD; the decay pulls on w.
    A parameter in a group with ``c = 0`` is trained by SGD, bit for bit, and keeps no dual. (One difference: where SGD
    multiplies a NaN gradient by ``lr = 0`` and writes NaN, this optimizer writes nothing, unless the rate is a tensor
    that the host does not read: on a device, or under ``torch.compile``.)

    The weights are a function of the dual: after the first step, a change from outside (loading, clipping, averaging)
    is undone by the next step, which warns once. Load weights before the first step, or the optimizer's state too.

    Args:
        params: parameters, named parameters or groups, as for every torch optimizer; see
            :func:`~directional_pruning.prunable_groups` for groups that spare scales, biases and positions, and weights
            under ``weight_norm``, where a row that pruning empties is NaN.
        lr: learning rate, a float or a one-element tensor; start with SGD's.
        c: strength of pruning, >= 0; multiplies the threshold. 0 is SGD.
        mu: growth of the threshold over time, in (0, 1]; the theory asks for (1/2, 1).
        momentum, nesterov, weight_decay, maximize: as in ``torch.optim.SGD``.
        foreach: torch's operations on whole lists of tensors; None uses them on CUDA, False goes tensor by tensor.
        fused: one pass over memory by a kernel, of C on the CPU and of Triton on CUDA, for float32 and half precision
            (on the CPU bfloat16). Both need the extension that a C compiler makes at installation. None uses it where
            it can; False uses torch's operations alone; True refuses parameters it cannot update. A gradient laid out
            unlike its parameter takes torch's operations.
        target: the share of zeros to end with, instead of the law. Then c and mu do not count (of c only whether it is
            0), and weights are cut with the target's ``power`` instead of S_g.
        capturable: keep step counters and thresholds on the parameters' device and never read them on the host, so
            that a CUDA graph can hold the step, after one that was not captured. A rate that changes between replays
            must be a tensor.

    Memory: one buffer the size of the parameters (the dual), float32 for half-precision parameters; one more with
    momentum. During a step ``foreach`` takes another; the kernels none.

    ``torch.compile`` of a step traces it whole, and does so once more when the rate first changes; as with torch's own,
    other options, or gradients at other parameters, are traced for themselves. Complex parameters
    are refused: soft-thresholding the two parts apart would prune neither.

    Raises:
        ValueError: for an argument out of range, naming it and its value, also in ``step`` where it was set later; for
            complex or integer parameters, and for negated views.
        RuntimeError: in ``step`` for a sparse gradient.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.01]))
        >>> optimizer = GRDA([w], lr=0.1, c=0.5, mu=0.5)
        >>> w.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()  # g = 0.5 * 0.1 = 0.05
        >>> torch.testing.assert_close(w.detach(), torch.tensor([1.0 - 0.1 - 0.05, 0.0]))

    Source: S.-K. Chao, Z. Wang, Y. Xing, G. Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020.
    """

    _unmoved: set[Tensor] | None = None  # see unmoved_duals

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        c: float = 0.005,
        mu: float = 0.51,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        target: Target | None = None,
    ) -> None:
        algorithm = {"lr": lr, "c": c, "mu": mu, "momentum": momentum, "nesterov": nesterov}
        algorithm |= {"weight_decay": weight_decay, "maximize": maximize}
        defaults = {**algorithm, "foreach": foreach, "fused": fused, "capturable": capturable, "target": target}
        make_plain(defaults)
        check(defaults, checks.GRDA)
        self._constructing = True
        super().__init__(params, defaults)
        del self._constructing

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a loaded or unpickled state; an option that is younger than the state gets its default."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option, default in (("foreach", None), ("fused", None), ("capturable", False), ("target", None)):
                group.setdefault(option, default)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checking its hyper-parameters as the constructor checks the defaults."""
        if isinstance(param_group, dict):
            make_plain(param_group)
            check({**self.defaults, **param_group}, checks.GRDA)
        add_checked_group(self, super().add_param_group, param_group, refusal_of_grda)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave; dual, step counter and threshold keep the precision they were saved in.

        Raises:
            ValueError: for the state of another optimizer or of parameters of another shape; nothing is loaded then.
        """

        def check_group(group: dict[str, Any]) -> None:
            check(group, checks.PRUNING)
            check({**self.defaults, **group}, checks.GRDA)

        load_uncast(
            self,
            super().load_state_dict,
            state_dict,
            buffers={"dual": "c", "momentum_buffer": "momentum"},
            scalars={"threshold": torch.float64, "step": torch.float32},
            check=check_group,
        )
        self._unmoved = None

    def state_dict(self) -> dict[str, Any]:
        """The state and the groups, with numbers of NumPy made Python's."""
        for group in self.param_groups:
            make_plain(group)
        return super().state_dict()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` re-evaluates the loss and returns it."""
        check_changed(self, check_grda)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            check_changed(self, check_grda)
        if not torch.compiler.is_compiling():
            # v_0 = w_0, also where a step at rate 0 made v and the weights were loaded since.
            for p in unmoved_duals(self, "step"):
                self.state[p]["dual"].copy_(p)
        if torch.compiler.is_compiling() and (self._has_shards() or has_target(self.param_groups)):
            self._update_outside_graph()
        else:
            self._update()
        return loss

    def _update(self) -> None:
        outside.warn_of_writes(self)
        # All groups are collected before any is moved: a refused gradient or rate leaves the whole model as it was.
        collected = []
        for group in self.param_groups:
            lists: tuple[list[Any], ...] = ([], [], [], [], [], [])
            self._init_group(group, *lists)
            collected.append(lists)
        for group, lists in zip(self.param_groups, collected, strict=True):
            if lists[0]:
                sgd = SGDOptions(*(group[option] for option in SGDOptions._fields))
                update_lists(lists, law=law_of(group), sgd=sgd, **{option: group[option] for option in _RATE_AND_MODE})
        cut_at_targets(self.param_groups, self.state, counter="step")
        outside.record_weights(self)

    # The compiler would take the shards of a DTensor for copies, and update those.
    _update_outside_graph = torch.compiler.disable(_update)

    def _has_shards(self) -> bool:
        return any(type(p) not in (Tensor, Parameter) for group in self.param_groups for p in group["params"])

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        duals: list[Tensor | None],
        momentum_buffers: list[Tensor | None],
        thresholds: list[Tensor | None],
        steps: list[Tensor],
    ) -> None:
        """Fill the lists of :func:`grda` with the parameters that have a gradient; their first update makes the state.

        Of a DTensor they get the local shard: all that this process has to update. ``torch.compile`` knows this method
        of an optimizer by its name: it runs it as it is, and needs it to return nothing.
        """
        pruned, momentum, strided = group["c"] > 0, group["momentum"] != 0, torch.strided
        capturable, wanted = group["capturable"], kernels.are_wanted(group["fused"], group["foreach"])
        on_cuda = wanted and (torch.compiler.is_compiling() or kernels.available(cuda_too=True))
        states = self.state
        for i, p in enumerate(group["params"]):
            grad = p.grad
            if grad is None:
                continue
            if grad.layout is not strided:
                raise RuntimeError(f"GRDA does not support sparse gradients, but {label(group, i)} has one")
            state = states[p]
            n, v, buffer = state.get("step"), state.get("dual"), state.get("momentum_buffer") if momentum else None
            like = p if v is None else v
            if n is None or (pruned and v is None) or (momentum and (buffer is None or buffer.dtype != like.dtype)):
                n, v, buffer = first_state(p, state, pruned, momentum)
                self._unmoved = None
            # n and g live on the device for its kernels and for graphs that are replayed; else the host reads them.
            on_device = capturable or (on_cuda and p.is_cuda)
            if on_device or not n.is_cpu:
                place(state, ("step", "threshold"), p.device if on_device else torch.device("cpu"))
                n = state["step"]
            w = p
            if type(p) is not Parameter and hasattr(p, "to_local"):
                if grad.placements != p.placements:  # partial sums, as tensor parallelism may leave them
                    grad = grad.redistribute(placements=p.placements)
                w, grad = local_tensor(p), local_tensor(grad)
                v, buffer = (t if t is None else local_tensor(t) for t in (v, buffer))
            params.append(w)
            grads.append(grad)
            duals.append(v)
            momentum_buffers.append(buffer)
            thresholds.append(state.get("threshold"))
            steps.append(n)
