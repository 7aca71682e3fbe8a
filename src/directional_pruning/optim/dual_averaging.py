"""gRDA: stochastic gradient descent that ends sparse.

Notation of the paper, kept in the code: w the weights (where the gradient is taken), v their dual variable
(what the gradient moves), n the number of updates, g the threshold, S_g soft-thresholding.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ..tensors import local_tensor
from .checks import check_pruning, check_sgd, label
from .functional import grda
from .kernels import batch as native
from .state import first_dual, load_uncast, place

# The function too: its name, imported from elsewhere, would be hidden by this module's.
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
    multiplies a NaN gradient by ``lr = 0`` and writes NaN, this optimizer writes nothing, unless the rate is a tensor
    that the host does not read: on a device, or under ``torch.compile``.)

    The weights are a function of the dual: after the first step, a change of the weights from outside (re-initialising,
    clipping, averaging) is undone by the next step. Load weights before the first step, or the optimizer's state too.

    Args:
        params: parameters, named parameters or groups, as for every torch optimizer; see
            :func:`~directional_pruning.prunable_groups` for groups that spare normalisation and biases.
        lr: learning rate, a float or a one-element tensor; start with SGD's.
        c: strength of pruning, >= 0; multiplies the threshold. 0 is SGD.
        mu: growth of the threshold over time, in (0, 1]; the theory asks for (1/2, 1).
        momentum, nesterov, weight_decay, maximize: as in ``torch.optim.SGD``.
        foreach: torch's operations on whole lists of tensors; None uses them on CUDA, False goes tensor by tensor.
        fused: one pass over memory by a kernel, of C on the CPU and of Triton on CUDA, for float32 and half precision
            (on the CPU bfloat16). Both need the extension that a C compiler makes at installation. None uses it where
            it can; False uses torch's operations alone; True refuses parameters it cannot update. A gradient laid out
            unlike its parameter takes torch's operations.
        capturable: keep clocks and thresholds beside the parameters and never read them on the host, so that a CUDA
            graph can hold the step, after one that was not captured. A rate that changes between replays must be a
            tensor.

    Memory: one buffer the size of the parameters (the dual), float32 for half-precision parameters; one more with
    momentum. During a step ``foreach`` takes another; the kernels none.

    ``torch.compile`` of a step traces it whole, and does so once more when the rate first changes; as with torch's own,
    other options, or gradients at other parameters, are traced for themselves. Complex parameters
    are refused: soft-thresholding the two parts apart would prune neither.

    Raises:
        ValueError: for an argument out of range, naming it and its value; for complex or integer parameters, and for
            negated views.
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
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        check_sgd(defaults)
        check_pruning(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a loaded or unpickled state; an option that came after it was saved gets its default."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option, default in (("foreach", None), ("fused", None), ("capturable", False)):
                group.setdefault(option, default)

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
        if p.is_neg():
            return "GRDA needs parameters that are not negated views, as x.conj().imag is"
        if group["fused"]:
            if not native.available(cuda=p.is_cuda):
                name = "Triton" if native.available() else "the compiled kernel"
                return f"fused=True needs {name}, which is not installed"
            shard = local_tensor(p)
            if not native.fits(shard, torch.empty_like(shard, dtype=torch.float32), shard):
                types = "float32, bfloat16 or float16" if p.is_cuda else "float32 or bfloat16"
                return f"fused=True needs densely laid out and aligned parameters of {types} on the CPU or CUDA"
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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; ``closure`` re-evaluates the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        plain = (Tensor, torch.nn.Parameter)
        parts = torch.compiler.is_compiling() and any(
            type(p) not in plain for group in self.param_groups for p in group["params"]
        )
        (self._update_eagerly if parts else self._update)()
        return loss

    def _update(self) -> None:
        # All groups are gathered before any is moved: a gradient that is refused leaves the whole model as it was.
        gathered = []
        for group in self.param_groups:
            batch, left = self._gather(group)
            lists: tuple[list[Any], ...] = ([], [], [], [], [], [])
            self._init_group(group, left, *lists)
            gathered.append((batch, lists))
        for group, (batch, lists) in zip(self.param_groups, gathered, strict=True):
            if batch is not None:
                batch.flush()
            if lists[0]:
                grda(
                    *lists,
                    lr=group["lr"],
                    c=group["c"],
                    mu=group["mu"],
                    momentum=group["momentum"],
                    nesterov=group["nesterov"],
                    weight_decay=group["weight_decay"],
                    maximize=group["maximize"],
                    foreach=group["foreach"],
                    fused=group["fused"],
                    capturable=group["capturable"],
                )

    # The compiler would take the parts of a DTensor for copies, and update those.
    _update_eagerly = torch.compiler.disable(_update)

    def _gather(self, group: dict[str, Any]) -> tuple[native.Batch | None, Iterable[int]]:
        """For the kernels what they can update at once; and the places of the parameters that are left."""
        lr, compiling = group["lr"], torch.compiler.is_compiling()
        if isinstance(lr, Tensor) and lr.is_cpu and not compiling:
            lr = float(lr)
        number = not isinstance(lr, Tensor)
        if number and not lr >= 0:
            raise ValueError(f"invalid lr: {lr} (must be >= 0)")
        if compiling or not _wants_kernels(group) or group["c"] == 0 or (number and lr == 0):
            return None, range(len(group["params"]))
        batch = native.Batch(
            lr,
            group["c"],
            group["mu"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
        )
        return batch, batch.gather(group["params"], self.state, "step")

    def _init_group(
        self,
        group: dict[str, Any],
        places: Iterable[int],
        params: list[Tensor],
        grads: list[Tensor],
        duals: list[Tensor | None],
        momentum_buffers: list[Tensor | None],
        thresholds: list[Tensor | None],
        steps: list[Tensor],
    ) -> None:
        """Gather the parameters at these places that have a gradient, with their state, made at their first update.

        The lists are those of :func:`grda`. Of a DTensor they get what lies on this process: all it has to update.
        """
        capturable, pruned, momentum = group["capturable"], group["c"] > 0, group["momentum"] != 0
        on_cuda = _wants_kernels(group) and (torch.compiler.is_compiling() or native.available(cuda=True))
        for i in places:
            p = group["params"][i]
            grad = p.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                raise RuntimeError(f"GRDA does not support sparse gradients, but {label(group, i)} has one")
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            if pruned and "dual" not in state:
                state["dual"] = first_dual(p)
                state["threshold"] = torch.tensor(0.0, dtype=torch.float64)
            w, dual, buffer = p, state.get("dual"), None
            if momentum:
                like, buffer = p if dual is None else dual, state.get("momentum_buffer")
                if buffer is None:
                    buffer = state["momentum_buffer"] = torch.zeros_like(like, requires_grad=False)
                elif buffer.dtype != like.dtype:  # from before there was a dual
                    buffer = state["momentum_buffer"] = buffer.to(like.dtype)
            # Where the kernels read them, or a graph that is replayed; anywhere else the host reads them.
            on_device = capturable or (on_cuda and p.is_cuda)
            n, g = state["step"], state.get("threshold")
            if on_device or not n.is_cpu or not (g is None or g.is_cpu):
                place(state, ("step", "threshold"), p.device if on_device else torch.device("cpu"))
                n, g = state["step"], state.get("threshold")
            if hasattr(p, "to_local"):
                if grad.placements != p.placements:  # sums still to be made, as tensor parallelism may leave them
                    grad = grad.redistribute(placements=p.placements)
                w, grad, dual, buffer = (t if t is None else local_tensor(t) for t in (p, grad, dual, buffer))
            params.append(w)
            grads.append(grad)
            duals.append(dual)
            momentum_buffers.append(buffer)
            thresholds.append(g)
            steps.append(n)


def _wants_kernels(group: dict[str, Any]) -> bool:
    return group["fused"] or (group["fused"] is None and not group["foreach"])
