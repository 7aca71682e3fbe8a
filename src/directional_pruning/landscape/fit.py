"""Training the bend of a curve between two networks."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ..files import CorruptFileError, replacing
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
    on_epoch: Callable[[int, float], None] | None = None,
) -> Curve:
    """Find a curve of low loss between two networks: train its bend, the ends fixed.

    Minimises the mean loss over the curve, E_t[f(curve(t))] with t uniform on (0, 1), by SGD with momentum: a new t
    for every batch, the network in training mode. The bend starts half-way between the ends; the rate is ``lr`` for
    half of the epochs, then falls in a straight line to ``lr / 100`` at 90 %, and stays there.

    Args:
        model: gives the architecture, device and types; its own weights are neither used nor changed.
        loss_fn: ``(outputs, targets)`` -> mean loss over the batch, a scalar.
        batches: ``(inputs, targets)``, read once an epoch, or a function from the epoch (from 0) to these. Inputs are
            a tensor, or a dictionary of tensors that the model takes by name.
        start, end: state dicts of the two networks.
        autocast: the type of automatic mixed precision, as ``torch.bfloat16``; None computes in the model's types.
        checkpoint: a file written after every epoch. If it exists training goes on from it, on a CPU with the bits of
            never having stopped as long as ``batches`` depend on the epoch and torch's generator alone.
        on_epoch: called with the epochs done and the mean loss over the last of them.

    Raises:
        ValueError: for state dicts that do not fit the model, epochs below 1, or a checkpoint of another curve.
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
    check_batches(batches, "batches")
    start, end, device = adapted(model, start, "start"), adapted(model, end, "end"), device_of(model)
    middle = dict(straight_line(start, end).bend)
    names = [name for name, _ in model.named_parameters()]
    trained = {name: middle[name].clone().requires_grad_() for name in names}
    optimizer = SGD(trained.values(), lr=lr, momentum=momentum)
    scheduler = LambdaLR(optimizer, lambda epoch: min(1.0, max(0.01, 1 - 0.99 * (epoch / epochs - 0.5) / 0.4)))

    done, path, identity = 0, None, ""
    if checkpoint is not None:
        path, settings = Path(checkpoint), (kind.__name__, epochs, lr, momentum, seed, autocast)
        identity = _identity(settings, start, end)
        if path.exists():
            done = _load(path, identity, trained, optimizer, scheduler)
    for epoch in range(done, epochs):
        losses = []
        # Seeds of neighbouring curves must not share epochs.
        with module_mode(model, training=True), seeded(seed * 1_000_003 + epoch, device):
            for inputs, targets in moved(batches(epoch) if callable(batches) else batches, device):
                t = max(float(torch.rand(())), 1e-6)  # at 0 the bend would have no gradient
                curve = kind(start, end, middle | trained)
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    loss = loss_fn(output_of(model, curve.point(t), inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        scheduler.step()
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise ArithmeticError(f"the loss along the curve is {mean} in epoch {epoch + 1}: a smaller lr may help")
        if path is not None:
            state = {"curve": identity, "epoch": epoch + 1, "bend": trained}
            state |= {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            with replacing(path) as beside, open(beside, "wb") as file:
                torch.save(state, file)
        if on_epoch is not None:
            on_epoch(epoch + 1, mean)
    return kind(start, end, middle | {name: tensor.detach() for name, tensor in trained.items()})


def _identity(settings: tuple[object, ...], *states: State) -> str:
    """A digest of settings and networks."""
    digest = hashlib.sha256(repr(settings).encode())
    for state in states:
        for name, tensor in state.items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, identity: str, trained: Mapping[str, Tensor], optimizer: SGD, scheduler: LambdaLR) -> int:
    """Restore the bend and its optimizer in place; the epochs done."""
    state = read_torch_file(path, what="checkpoint of a curve")
    try:
        of, epoch, bend = state["curve"], state["epoch"], state["bend"]
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is not a readable checkpoint of a curve") from error
    if of != identity:
        raise ValueError(f"invalid checkpoint: {path} (it is of a curve with other ends or settings)")
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(bend[name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return epoch
