"""gRDA: stochastic gradient descent that ends sparse.

Notation of the paper, kept in the code: w the weights (where the gradient is taken), v their dual variable
(what the gradient moves), n the number of updates, g the threshold, S_g soft-thresholding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from . import native
from .checks import check_hyperparameters, label
from .threshold import raise_threshold, soft_threshold

__all__ = ["GRDA", "grda"]


class GRDA(Optimizer):
    r"""Generalised regularised dual averaging: a drop-in for ``torch.optim.SGD`` that prunes while it trains.

    .. math::
        v_n &= v_{n-1} - lr\, \nabla f(w_{n-1}), \qquad v_0 = w_0 \\
        g_n &= g_{n-1} + c\, lr^{1/2+\mu} (n^\mu - (n-1)^\mu), \qquad g_0 = 0 \\
        w_n &= S_{g_n}(v_n) = \operatorname{sign}(v_n) \max(|v_n| - g_n, 0)

    At a constant rate the threshold is ``c * lr**0.5 * (n * lr)**mu``. It grows with the learning rate of the moment
    and never falls. Every parameter counts its own updates n. A parameter without a gradient, or a step with
    ``lr = 0``, moves neither weight, dual, clock nor threshold.

    Momentum and weight decay enter the gradient of v as they enter the gradient of w in SGD; the decay pulls on w.
    A parameter in a group with ``c = 0`` is trained by SGD, bit for bit, and keeps no dual.

    Args:
        params: parameters, named parameters or groups, as for every torch optimizer; see
            :func:`~directional_pruning.prunable_groups` for groups that spare normalisation and biases.
        lr: learning rate, a float or a one-element tensor. Far larger rates than SGD's are not needed.
        c: strength of pruning, >= 0; multiplies the threshold. 0 is SGD.
        mu: growth of the threshold over time, in (0, 1]; the theory asks for (1/2, 1).
        momentum, nesterov, weight_decay, maximize: as in ``torch.optim.SGD``.
        fused: one pass over memory by a compiled kernel, for float32 on the CPU. None uses it where it can; False uses
            torch's operations alone; True refuses parameters it cannot update.

    Memory: one buffer the size of the parameters (the dual), float32 for half-precision parameters; one more with
    momentum.

    Raises:
        ValueError: for an argument out of range, naming it and its value; for complex or integer parameters.
        RuntimeError: in ``step`` for a sparse gradient.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.01]))
        >>> optimizer = GRDA([w], lr=0.1, c=0.5, mu=0.5)
        >>> w.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()  # g = 0.5 * 0.1 = 0.05
        >>> torch.testing.assert_close(w.detach(), torch.tensor([1.0 - 0.1 - 0.05, 0.0]))

    Source: S.-K. Chao, Z. Wang, Y. Xing, G. Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020.
    """

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
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "fused": fused,
        }
        check_hyperparameters(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checking its hyper-parameters as the constructor checks the defaults."""
        if isinstance(param_group, dict):
            check_hyperparameters({**self.defaults, **param_group})
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for i, p in enumerate(added["params"]):
            problem = None
            if not p.is_floating_point():
                problem = f"GRDA needs real floating-point parameters, but {label(added, i)} is {p.dtype}"
            elif added["fused"] and not native.fits(p, p, p):
                problem = (
                    f"fused=True needs float32 parameters on the CPU, but {label(added, i)} is {p.dtype} on {p.device}"
                )
                if not native.available():
                    problem = "fused=True needs the kernel that was not compiled at installation"
            if problem is not None:
                self.param_groups.pop()
                raise ValueError(problem)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of :meth:`state_dict`; the dual and the threshold keep the precision they were saved in."""
        # torch casts every state tensor but `step` to the parameter's dtype, which would round a float32 dual to
        # bfloat16. A hook that runs last sees the state as the hooks of the user left it; its tensors go in uncast.
        for i, group in enumerate(state_dict["param_groups"]):
            if "c" not in group:
                raise ValueError(f"not a state dict of GRDA: its parameter group {i} has no 'c'")
        seen: dict[str, Any] = {}
        handle = self.register_load_state_dict_pre_hook(lambda _, final: seen.update(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        saved_ids = (i for group in seen["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for saved_id, p in zip(saved_ids, params, strict=True):
            saved = seen["state"].get(saved_id, {})
            for key in ("dual", "momentum_buffer"):
                if saved.get(key) is not None:
                    self.state[p][key] = saved[key].to(p.device)
            if "threshold" in saved:
                self.state[p]["threshold"] = saved["threshold"].cpu()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` re-evaluates the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # All groups are gathered before any is moved: a gradient that is refused leaves the whole model as it was.
        gathered = [self._init_group(group) for group in self.param_groups]
        for group, (params, grads, duals, momentum_buffers, thresholds, steps) in zip(
            self.param_groups, gathered, strict=True
        ):
            grda(
                params,
                grads,
                duals,
                momentum_buffers,
                thresholds,
                steps,
                **{
                    key: group[key]
                    for key in ("lr", "c", "mu", "momentum", "nesterov", "weight_decay", "maximize", "fused")
                },
            )
            if group["momentum"] != 0:
                for p, buffer in zip(params, momentum_buffers, strict=True):
                    self.state[p]["momentum_buffer"] = buffer
        return loss

    def _init_group(self, group: dict[str, Any]) -> tuple[list, list, list, list, list, list]:
        """Gather the parameters that have a gradient, with their state, made at their first update."""
        params, grads, duals, momentum_buffers, thresholds, steps = [], [], [], [], [], []
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise RuntimeError(f"GRDA does not support sparse gradients, but {label(group, i)} has one")
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            if group["c"] > 0 and "dual" not in state:
                # S_0 is the identity: up to now w was its own dual.
                half = p.dtype in (torch.bfloat16, torch.float16)
                state["dual"] = p.detach().to(torch.float32 if half else p.dtype, copy=True)
                state["threshold"] = torch.tensor(0.0, dtype=torch.float64)
            params.append(p)
            grads.append(p.grad)
            duals.append(state.get("dual"))
            momentum_buffers.append(state.get("momentum_buffer"))
            thresholds.append(state.get("threshold"))
            steps.append(state["step"])
        return params, grads, duals, momentum_buffers, thresholds, steps


def grda(
    params: list[Tensor],
    grads: list[Tensor],
    duals: list[Tensor | None],
    momentum_buffers: list[Tensor | None],
    thresholds: list[Tensor | None],
    steps: list[Tensor],
    *,
    lr: float | Tensor,
    c: float,
    mu: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    fused: bool | None = None,
) -> None:
    r"""One gRDA update in place, as a function of its state. See :class:`GRDA` for the equations.

    Args:
        params, grads: w and its gradient, tensors of one shape each.
        duals: v, of the shape of w, float32 or the dtype of w; None for a parameter trained by SGD (``c = 0``).
        momentum_buffers: of the shape of w, or None before the first update, when the list receives the new buffer.
        thresholds: g, float64 scalars; None where the dual is None.
        steps: n, float32 scalars, the number of updates so far.
        fused: None or True for the compiled kernel where it can be used, False for torch's operations alone.

    Example:
        >>> w, v = torch.tensor([0.3, -0.02]), torch.tensor([0.3, -0.02])
        >>> n, g = torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)
        >>> grda([w], [torch.zeros(2)], [v], [None], [g], [n], lr=1.0, c=0.1, mu=0.5)
        >>> w.tolist() == [torch.tensor(0.3).sub(0.1).item(), 0.0], n.item(), round(g.item(), 3)
        (True, 1.0, 0.1)
    """
    with torch.no_grad():
        lr = float(lr)
        batch = native.Batch(lr, c, mu)
        for i, w in enumerate(params):
            v, g = duals[i], thresholds[i]
            grad = grads[i] if not maximize else -grads[i]
            if v is not None and grad.dtype != v.dtype and (weight_decay != 0 or momentum != 0):
                grad = grad.to(v.dtype)
            if weight_decay != 0:
                grad = grad.add(w, alpha=weight_decay)
            if momentum != 0:
                buffer = momentum_buffers[i]
                if buffer is None:
                    buffer = momentum_buffers[i] = grad.detach().clone()
                else:
                    buffer.mul_(momentum).add_(grad)
                grad = grad.add(buffer, alpha=momentum) if nesterov else buffer
            if lr == 0:
                continue
            if v is None or g is None:
                steps[i].add_(1)
                w.add_(grad, alpha=-lr)
            elif fused is not False and native.fits(w, v, grad):
                batch.add(w, v, grad, g, steps[i])
            else:
                # v_n = v_{n-1} - lr grad f(w_{n-1})
                v.add_(grad, alpha=-lr)
                # w_n = S_{g_n}(v_n)
                soft_threshold(v, raise_threshold(g, steps[i], lr, c, mu), out=w)
        batch.flush()
