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
from .checks import check_pruning, check_sgd, label
from .state import first_dual, load_uncast, local
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
    A parameter in a group with ``c = 0`` is trained by SGD, bit for bit, and keeps no dual. (One difference: where SGD
    multiplies a NaN gradient by ``lr = 0`` and writes NaN, this optimizer writes nothing.)

    The weights are a function of the dual: after the first step, a change of the weights from outside (re-initialising,
    clipping, averaging) is undone by the next step. Load weights before the first step, or the optimizer's state too.

    Args:
        params: parameters, named parameters or groups, as for every torch optimizer; see
            :func:`~directional_pruning.prunable_groups` for groups that spare normalisation and biases.
        lr: learning rate, a float or a one-element tensor; start with SGD's.
        c: strength of pruning, >= 0; multiplies the threshold. 0 is SGD.
        mu: growth of the threshold over time, in (0, 1]; the theory asks for (1/2, 1).
        momentum, nesterov, weight_decay, maximize: as in ``torch.optim.SGD``.
        fused: one pass over memory by a compiled kernel, for float32 on the CPU. None uses it where it can; False uses
            torch's operations alone; True refuses parameters it cannot update.

    Memory: one buffer the size of the parameters (the dual), float32 for half-precision parameters; one more with
    momentum. During a step with weight decay, Nesterov or maximize the kernel keeps up to 128 MB of gradients besides.

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
        check_sgd(defaults)
        check_pruning(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a loaded or unpickled state; an option that came after it was saved gets its default."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("fused", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checking its hyper-parameters as the constructor checks the defaults."""
        if isinstance(param_group, dict):
            check_sgd({**self.defaults, **param_group})
            check_pruning({**self.defaults, **param_group})
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for i, p in enumerate(added["params"]):
            if problem := self._refusal(p, added):
                self.param_groups.pop()
                raise ValueError(f"{problem}, but {label(added, i)} is {p.dtype} on {p.device}")

    @staticmethod
    def _refusal(p: Tensor, group: dict[str, Any]) -> str | None:
        """What this parameter would have to be, if it cannot be trained."""
        if p.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            return "GRDA needs real floating-point parameters of 16, 32 or 64 bits"
        if group["fused"] and not native.available():
            return "fused=True needs the kernel, which was not compiled at installation"
        shard = local(p)
        if group["fused"] and not native.fits(shard, torch.empty_like(shard, dtype=torch.float32), shard):
            return "fused=True needs contiguous float32 or bfloat16 parameters on the CPU"
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave; dual, clock and threshold keep the precision they were saved in.

        Raises:
            ValueError: for the state of another optimizer or of parameters of another shape; nothing is loaded then.
        """

        def check(group: dict[str, Any]) -> None:
            check_pruning(group)
            check_sgd({**self.defaults, **group})

        load_uncast(
            self,
            super().load_state_dict,
            state_dict,
            buffers=("dual", "momentum_buffer"),
            scalars={"threshold": torch.float64, "step": torch.float32},
            check=check,
        )

    # Under torch.compile the step stays as it is: one break in the graph, and the kernel instead of three operations.
    @torch._disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` re-evaluates the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # All groups are gathered before any is moved: a gradient that is refused leaves the whole model as it was.
        gathered = [self._init_group(group) for group in self.param_groups]
        for group, lists in zip(self.param_groups, gathered, strict=True):
            grda(
                *lists,
                lr=group["lr"],
                c=group["c"],
                mu=group["mu"],
                momentum=group["momentum"],
                nesterov=group["nesterov"],
                weight_decay=group["weight_decay"],
                maximize=group["maximize"],
                fused=group["fused"],
            )
            if group["momentum"] != 0:
                moved = (p for p in group["params"] if p.grad is not None)
                for p, buffer in zip(moved, lists[3], strict=True):
                    if self.state[p].get("momentum_buffer") is None:
                        self.state[p]["momentum_buffer"] = _placed_like(p, buffer)
        return loss

    def _init_group(self, group: dict[str, Any]) -> tuple[list[Any], ...]:
        """Gather the parameters that have a gradient, with their state, made at their first update.

        The lists are those of :func:`grda`. Of a DTensor they hold what lies on this process: all it has to update.
        """
        if not isinstance(group["lr"], Tensor) and not group["lr"] >= 0:
            raise ValueError(f"invalid lr: {group['lr']} (must be >= 0)")
        params, grads, duals, momentum_buffers, thresholds, steps = [], [], [], [], [], []
        for i, p in enumerate(group["params"]):
            grad = p.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                raise RuntimeError(f"GRDA does not support sparse gradients, but {label(group, i)} has one")
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            if group["c"] > 0 and "dual" not in state:
                state["dual"] = first_dual(p)
                state["threshold"] = torch.tensor(0.0, dtype=torch.float64)
            w, dual, buffer = p, state.get("dual"), state.get("momentum_buffer")
            if hasattr(p, "to_local"):
                if grad.placements != p.placements:  # sums still to be made, as tensor parallelism may leave them
                    grad = grad.redistribute(placements=p.placements)
                w, grad, dual, buffer = (t if t is None else local(t) for t in (p, grad, dual, buffer))
            params.append(w)
            grads.append(grad)
            duals.append(dual)
            momentum_buffers.append(buffer)
            thresholds.append(state.get("threshold"))
            steps.append(state["step"])
        return params, grads, duals, momentum_buffers, thresholds, steps


def _placed_like(p: Any, shard: Tensor) -> Tensor:
    """A DTensor laid out as p, of which ``shard`` lies on this process; where p is a plain tensor, ``shard`` itself."""
    if not hasattr(p, "to_local"):
        return shard
    return type(p).from_local(shard, p.device_mesh, p.placements, shape=p.shape, stride=p.stride())


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
            elif fused is not False and native.fits(w, v, grad, g, steps[i]):
                batch.add(w, v, grad, g, steps[i])
            else:
                # v_n = v_{n-1} - lr grad f(w_{n-1})
                v.add_(grad, alpha=-lr)
                # w_n = S_{g_n}(v_n)
                soft_threshold(v, raise_threshold(g, steps[i], lr, c, mu), out=w)
        batch.flush()
