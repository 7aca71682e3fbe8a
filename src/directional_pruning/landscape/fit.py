"""Training the bend of a curve between two networks."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ..files import CorruptFileError, write_with
from ..progress import Progress, ignore_progress
from ..tensors import module_mode, read_torch_file
from .curve import BezierCurve, Curve, straight_line
from .network import Batches, Loss, State, adapted, check_batches, device_of, moved, output_of, seeded

__all__ = ["fit_curve"]


def fit_curve(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches | Callable[[int], Batches],
    start: State,
    end: State,
    *,
    kind: type[Curve] = BezierCurve,
    epochs: int = 30,
    lr: float = 0.05,
    momentum: float = 0.9,
    seed: int = 0,
    autocast: torch.dtype | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_progress: Progress = ignore_progress,
) -> Curve:
    """Find a curve of low loss between two networks: train its bend, the ends fixed.

    Minimises the mean loss over the curve, E_t[f(curve(t))] with t uniform on (0, 1), by SGD with momentum: a new t
    for every batch, the network in training mode. The bend starts half-way between the ends; the rate is ``lr`` for
    half of the epochs, then falls linearly to ``lr / 100`` at 90 %, and stays there.

    Args:
        model: gives the architecture, device and types; its weights are neither used nor changed.
        loss_fn: ``(outputs, targets)`` -> mean loss over the batch, a scalar.
        batches: ``(inputs, targets)``, read once an epoch, or a function from the epoch (from 0) to these. Inputs are
            a tensor, or a dictionary of tensors that the model takes by name.
        start, end: state dicts of the two networks.
        autocast: the type of automatic mixed precision, as ``torch.bfloat16``; None computes in the model's types.
        checkpoint: a file written after every epoch. If it exists, training resumes from it; on a CPU the result is
            bit-identical, as long as ``batches`` depend on the epoch and torch's generator alone.
        on_progress: called after each epoch with the task "training the bend" and the record ``{"loss": mean}``.

    Raises:
        ValueError: for state dicts that do not fit the model, epochs or a rate out of range, or a checkpoint of another
            curve.
        ArithmeticError: where the loss along the curve is not finite.
        CorruptFileError: for a checkpoint that cannot be read.

    >>> model = nn.Linear(1, 1, bias=False)  # at weights 1 and -1 f(x) = |w| x is the same function
    >>> square = lambda outputs, targets: (outputs.abs() - targets).square().mean()
    >>> one, other = {"weight": torch.ones(1, 1)}, {"weight": -torch.ones(1, 1)}
    >>> curve = fit_curve(model, square, [(torch.ones(4, 1), torch.ones(4, 1))], one, other, epochs=3)
    >>> curve.point(0)["weight"].item(), curve.point(1)["weight"].item()
    (1.0, -1.0)
    """
    if epochs < 1:
        raise ValueError(f"invalid epochs: {epochs} (must be >= 1)")
    if not 0 <= lr < math.inf:
        raise ValueError(f"invalid lr: {lr} (must be >= 0 and finite)")
    check_batches(batches, "batches")
    start, end = adapted(model, start, "start"), adapted(model, end, "end")
    middle = dict(straight_line(start, end).bend)
    names = [name for name, _ in model.named_parameters()]
    weights = {name: middle[name].clone().requires_grad_() for name in names}
    optimizer = SGD(weights.values(), lr=lr, momentum=momentum)
    # The paper's schedule for CIFAR, as in the training loop, which the landscape must not import.
    scheduler = LambdaLR(optimizer, lambda epoch: min(1.0, max(0.01, 1 - 0.99 * (epoch / epochs - 0.5) / 0.4)))

    saved, done = None, 0
    if checkpoint is not None:
        settings = (kind.__name__, epochs, lr, momentum, seed, autocast)
        saved = _Checkpoint(Path(checkpoint), _identity(settings, start, end), weights, optimizer, scheduler)
        done = saved.load()
    for epoch in range(done, epochs):
        # So that seeds 0 and 1 do not give the same numbers one epoch apart.
        with module_mode(model, training=True), seeded(seed * 1_000_003 + epoch, device_of(model)):
            mean = _train_epoch(
                model,
                loss_fn,
                batches(epoch) if callable(batches) else batches,
                lambda t: kind(start, end, middle | weights).point(t),
                optimizer,
                autocast,
            )
        scheduler.step()
        if not math.isfinite(mean):
            raise ArithmeticError(f"the loss along the curve is {mean} in epoch {epoch + 1}: a smaller lr may help")
        if saved is not None:
            saved.save(epoch + 1)
        on_progress("training the bend", epoch + 1, epochs, {"loss": mean})
    return kind(start, end, middle | {name: tensor.detach() for name, tensor in weights.items()})


def _train_epoch(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    point: Callable[[float], State],
    optimizer: SGD,
    autocast: torch.dtype | None,
) -> float:
    """One update of the bend for each batch, at a random point of the curve; the mean loss."""
    losses, device = [], device_of(model)
    for inputs, targets in moved(batches, device):
        t = max(float(torch.rand(())), 1e-6)  # at 0 the bend would have no gradient
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            loss = loss_fn(output_of(model, point(t), inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _identity(settings: tuple[object, ...], *states: State) -> str:
    """A digest of settings and networks."""
    digest = hashlib.sha256(repr(settings).encode())
    for state in states:
        for name, tensor in state.items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass
class _Checkpoint:
    """The file from which the training of a bend resumes."""

    path: Path
    identity: str
    weights: Mapping[str, Tensor]
    optimizer: SGD
    scheduler: LambdaLR

    def save(self, epoch: int) -> None:
        """Write the state after ``epoch`` epochs, atomically."""
        state = {"curve": self.identity, "epoch": epoch, "bend": self.weights}
        state |= {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        write_with(self.path, lambda file: torch.save(state, file))

    def load(self) -> int:
        """Restore weights, optimizer and scheduler in place; the number of epochs done, 0 without a file."""
        if not self.path.exists():
            return 0
        state = read_torch_file(self.path, what="checkpoint of a curve")
        try:
            identity, epoch, bend = state["curve"], state["epoch"], state["bend"]
        except (KeyError, TypeError) as error:
            raise CorruptFileError(f"{self.path} is not a readable checkpoint of a curve") from error
        if identity != self.identity:
            raise ValueError(f"invalid checkpoint: {self.path} (it is of a curve with other ends or settings)")
        try:
            with torch.no_grad():
                for name, tensor in self.weights.items():
                    tensor.copy_(bend[name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            return int(epoch)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptFileError(f"{self.path} is not a checkpoint of this curve") from error
