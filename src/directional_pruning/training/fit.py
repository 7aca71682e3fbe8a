"""Train a network and measure it: two plain functions and the schedules of the recipes."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..sparsity import sparsity_report
from .checkpoint import load_checkpoint, save_checkpoint

__all__ = ["NonFiniteError", "cosine_schedule", "evaluate", "fit", "paper_schedule", "pick_device"]

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


class NonFiniteError(ArithmeticError):
    """The loss or a weight became NaN or infinite; the message names step, epoch and layer."""


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Callable[[int], Batches],
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    loss_fn: Loss = F.cross_entropy,
    validation: Callable[[], Batches] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 5,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return one record per epoch.

    Args:
        batches: epoch (from 0) -> its batches of ``(inputs, labels)`` on the model's device. Let the order depend on
            the epoch and a seed alone, and training that was stopped goes on exactly as if it had not been.
        scheduler: stepped once after every epoch.
        loss_fn: ``(logits (n, classes, ...), labels (n, ...))`` -> mean loss, a scalar.
        validation: makes the batches on which the network is evaluated after every epoch.
        checkpoint: a file written every ``checkpoint_every`` epochs and at the end. If it exists, training continues
            from it, bit-identically to never having stopped, and ``on_epoch`` is first called for the past epochs.
        on_epoch: called with each epoch's record.

    Returns:
        Records with epoch (from 1), step, lr, train_loss, train_accuracy, validation_loss, validation_accuracy,
        sparsity_all, sparsity_prunable (fractions), threshold (the largest g of gRDA, 0 for other optimizers) and
        seconds of training so far. Training figures are means over the epoch, while the weights were moving.

    Raises:
        NonFiniteError: at the first step whose loss is not finite, or at the end of an epoch whose weights are not.
            The checkpoint then is the last good one.
        CorruptFileError: for a checkpoint that cannot be read or is of another network or optimizer.
    """
    records: list[dict[str, Any]] = []
    checkpoint = Path(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and checkpoint.exists():
        records = load_checkpoint(checkpoint, model, optimizer, scheduler)
        if on_epoch is not None:
            for record in records:
                on_epoch(record)
    step = records[-1]["step"] if records else 0
    began = time.perf_counter() - (records[-1]["seconds"] if records else 0.0)

    for epoch in range(len(records) + 1, epochs + 1):
        model.train()
        lr = float(optimizer.param_groups[0]["lr"])
        total_loss, correct, seen = 0.0, 0, 0
        for inputs, labels in batches(epoch - 1):
            step += 1
            optimizer.zero_grad()
            logits = model(inputs)
            loss = loss_fn(logits, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteError(f"the loss is {value} at step {step} (epoch {epoch}): {_blame(model, inputs)}")
            loss.backward()
            optimizer.step()
            total_loss += value * labels.numel()
            correct += int((logits.argmax(1) == labels).sum())
            seen += labels.numel()
        if scheduler is not None:
            scheduler.step()
        if (name := _first_non_finite(model.state_dict())) is not None:
            raise NonFiniteError(f"{name} is not finite after step {step} (epoch {epoch})")

        sparsity = sparsity_report(model)
        thresholds = [float(state["threshold"]) for state in optimizer.state.values() if "threshold" in state]
        record = {
            "epoch": epoch,
            "step": step,
            "lr": lr,
            "train_loss": total_loss / seen,
            "train_accuracy": correct / seen,
            "sparsity_all": sparsity.sparsity,
            "sparsity_prunable": sparsity.prunable.sparsity,
            "threshold": max(thresholds, default=0.0),
        }
        if validation is not None:
            measured = evaluate(model, validation(), loss_fn)
            record |= {"validation_loss": measured["loss"], "validation_accuracy": measured["accuracy"]}
        record["seconds"] = time.perf_counter() - began
        records.append(record)
        if checkpoint is not None and (epoch % checkpoint_every == 0 or epoch == epochs):
            save_checkpoint(checkpoint, model, optimizer, scheduler, records)
        if on_epoch is not None:
            on_epoch(record)
    return records


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, loss_fn: Loss = F.cross_entropy) -> dict[str, float]:
    """Mean loss and accuracy (a fraction) of a classifier in evaluation mode, over all samples of ``batches``.

    >>> two = [(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))]
    >>> evaluate(nn.Identity(), two)["accuracy"]
    0.5
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    loss, correct, seen = 0.0, 0, 0
    try:
        for inputs, labels in batches:
            logits = model(inputs)
            loss += loss_fn(logits, labels).item() * labels.numel()
            correct += int((logits.argmax(1) == labels).sum())
            seen += labels.numel()
    finally:
        for module, mode in training.items():
            module.training = mode
    return {"loss": loss / seen, "accuracy": correct / seen}


def paper_schedule(epoch: int, epochs: int) -> float:
    """The paper's rate for CIFAR as a factor: 1 for half of the epochs, then linear to 0.01 at 90 %, then flat.

    ``epoch`` counts from 0. Use with ``torch.optim.lr_scheduler.LambdaLR``.

    >>> [round(paper_schedule(epoch, 200), 3) for epoch in (0, 100, 140, 180, 199)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """
    progress = epoch / epochs
    return min(1.0, max(0.01, 1.0 - 0.99 * (progress - 0.5) / 0.4))


def cosine_schedule(epoch: int, epochs: int, warmup: int = 2) -> float:
    """A factor that rises in equal steps over ``warmup`` epochs to 1 and falls along half a cosine towards 0.

    ``epoch`` counts from 0; the last epoch is still above 0. Use as :func:`paper_schedule`.

    >>> [round(cosine_schedule(epoch, 10), 3) for epoch in (0, 1, 2, 6, 9)]
    [0.333, 0.667, 1.0, 0.5, 0.038]
    """
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where present, else Apple's MPS, else the CPU; any other name must be usable here.

    Raises:
        ValueError: for a name torch does not know or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("no training there")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"invalid device: {name} (not usable here; cpu always is)") from error
    return device


def _first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


@torch.no_grad()
def _blame(model: nn.Module, inputs: Tensor) -> str:
    """Where a non-finite loss comes from: the input, a weight, or the first layer whose output is not finite."""
    if not bool(torch.isfinite(inputs).all()):
        return "the input is not finite"
    # Not the buffers: the pass that failed has already spoilt the running averages behind the culprit.
    if (name := _first_non_finite(dict(model.named_parameters()))) is not None:
        return f"{name} is not finite"
    culprits: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                culprits.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return f"the output of layer {culprits[0]} is not finite" if culprits else "the loss itself overflowed"
