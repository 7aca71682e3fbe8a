"""Train a network: one plain loop."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..sparsity import sparsity_report
from .checkpoint import load_checkpoint, save_checkpoint
from .distributed import ALONE, Processes, gathered, gradients_stay
from .evaluation import Batches, Loss, evaluate
from .nonfinite import NonFiniteError, blame, first_non_finite

__all__ = ["fit"]

# Losses that wait on a device before they are read.
_UNREAD = 32


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Callable[..., Batches],
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    loss_fn: Loss = F.cross_entropy,
    validation: Callable[[], Batches] | None = None,
    autocast: torch.dtype | None = None,
    accumulate: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 5,
    checkpoint_seconds: float = math.inf,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    processes: Processes = ALONE,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return one record per epoch.

    Args:
        batches: epoch (from 0) -> its batches of ``(inputs, labels)`` on the model's device, of several processes this
            one's share. Let the order depend on the epoch and a seed alone, and training that was stopped goes on
            exactly as if it had not been. Where it was stopped within an epoch, ``batches(epoch, done)`` leaves out
            the first ``done``.
        scheduler: stepped once after every epoch.
        loss_fn: ``(logits (n, classes, ...), labels (n, ...))`` -> mean loss, a scalar.
        validation: makes the batches on which the network is evaluated after every epoch, always with cross-entropy.
        autocast: the type products are computed in, such as ``torch.bfloat16``; None is that of the weights.
        accumulate: parts of a batch that go through the network one after the other, to need less memory.
        checkpoint: a file written every ``checkpoint_every`` epochs, when ``checkpoint_seconds`` have passed since the
            last time, and at the end. If it exists, training continues from it, bit-identically to never having
            stopped, and ``on_epoch`` is first called for the past epochs.
        on_epoch: called with each epoch's record.
        processes: those that train ``model`` together; it is already spread over them.

    Returns:
        Records with epoch (from 1), step, lr, train_loss, train_accuracy, validation_loss, validation_accuracy,
        sparsity_all, sparsity_prunable (fractions), norm_ratio (||w||_2 / ||w||_1 over all parameters), threshold (the
        largest g of gRDA, 0 for other optimizers) and seconds of training so far. Training figures are means over the
        epoch, while the weights were moving.

    Raises:
        NonFiniteError: for a loss or a weight that is not finite. On a CPU the step that would have used it is not
            taken; elsewhere up to 32 steps are. The checkpoint then is the last good one.
        CorruptFileError: for a checkpoint that cannot be read or is of another network or optimizer.
    """
    core = model.module if isinstance(model, DistributedDataParallel) else model
    progress: dict[str, Any] = {"records": [], "part": None, "seconds": 0.0}
    checkpoint = Path(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and checkpoint.exists():
        progress = load_checkpoint(checkpoint, core, optimizer, scheduler, processes)
    records, part = progress["records"], progress["part"]
    if on_epoch is not None:
        for record in records:
            on_epoch(record)
    step = (records[-1]["step"] if records else 0) + (part["batches"] if part else 0)
    began = time.perf_counter() - progress["seconds"]
    saved = time.perf_counter()

    def save(part: dict[str, Any] | None) -> None:
        nonlocal saved
        if checkpoint is not None:
            progress = {"records": records, "part": part, "seconds": time.perf_counter() - began}
            save_checkpoint(checkpoint, core, optimizer, scheduler, progress, processes)
            saved = time.perf_counter()

    def overdue() -> bool:
        return time.perf_counter() - saved > checkpoint_seconds

    device = next((p.device for p in core.parameters()), torch.device("cpu"))
    at_once = _reads_at_once(device)
    # A compiled network may keep its results in the memory of a CUDA graph, until the next step.
    graphs = device.type == "cuda" and core._compiled_call_impl is not None

    for epoch in range(len(records) + 1, epochs + 1):
        model.train()
        lr = float(optimizer.param_groups[0]["lr"])
        tally = _Tally(processes, part)
        for inputs, labels in batches(epoch - 1, part["batches"]) if part else batches(epoch - 1):
            step += 1
            optimizer.zero_grad()
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()
            pieces = list(zip(inputs.chunk(accumulate), labels.chunk(accumulate)))
            for i, (x, y) in enumerate(pieces):
                with gradients_stay(model, i + 1 < len(pieces)):
                    with torch.autocast(labels.device.type, autocast, enabled=autocast is not None):
                        logits = model(x)
                        loss = loss_fn(logits, y)
                    tally.add(step, loss, logits, y)
                    if at_once:
                        tally.read(overdue())
                        _check(tally, step, epoch, lambda x=x: blame(core, x, processes))
                    (loss if len(pieces) == 1 else loss * (len(y) / len(labels))).backward()
            optimizer.step()
            tally.batches += 1
            if not at_once and tally.full:
                tally.read(overdue())
                _check(tally, step, epoch)
            if tally.due:
                _check_weights(core, step, epoch, processes)
                save(tally.part())
                tally.due = False
        tally.read()
        _check(tally, step, epoch)
        part = None
        if scheduler is not None:
            scheduler.step()
        processes.share_buffers(core)
        _check_weights(core, step, epoch, processes)

        sparsity = sparsity_report(core)
        thresholds = [float(state["threshold"]) for state in optimizer.state.values() if "threshold" in state]
        record = {
            "epoch": epoch,
            "step": step,
            "lr": lr,
            "train_loss": tally.loss / tally.seen,
            "train_accuracy": tally.correct / tally.seen,
            "sparsity_all": sparsity.sparsity,
            "sparsity_prunable": sparsity.prunable.sparsity,
            "norm_ratio": _norm_ratio(core),
            "threshold": max(thresholds, default=0.0),
        }
        if validation is not None:
            measured = evaluate(core, validation(), autocast=autocast, processes=processes)
            record |= {"validation_loss": measured["loss"], "validation_accuracy": measured["accuracy"]}
        record["seconds"] = time.perf_counter() - began
        records.append(record)
        # One clock decides for all: they save together.
        if epoch % checkpoint_every == 0 or epoch == epochs or processes.share(overdue()):
            save(None)
        if on_epoch is not None:
            on_epoch(record)
    return records


def _reads_at_once(device: torch.device) -> bool:
    """Whether to look at each loss before its step; elsewhere than on a CPU that would wait for the device."""
    return device.type == "cpu"


class _Tally:
    """What an epoch's losses and hits add up to, over all processes.

    They are read many steps at a time where each reading waits for a device.
    """

    def __init__(self, processes: Processes, part: dict[str, Any] | None) -> None:
        self.processes = processes
        begun = part or {"loss": 0.0, "correct": 0.0, "seen": 0.0, "batches": 0}
        self.loss, self.correct, self.seen = begun["loss"], begun["correct"], begun["seen"]
        self.batches: int = begun["batches"]
        self.due = False
        self.broken: tuple[int, float] | None = None
        self._waiting: list[tuple[int, Tensor, Tensor, int]] = []

    def part(self) -> dict[str, Any]:
        return {"loss": self.loss, "correct": self.correct, "seen": self.seen, "batches": self.batches}

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._waiting.append((step, loss.detach(), (logits.argmax(1) == labels).sum(), labels.numel()))

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _UNREAD

    def read(self, due: bool = False) -> None:
        """Add up what waits; note the first step whose loss is not finite, and whether the first process is ``due``."""
        if not self._waiting:
            return
        steps, losses, hits, counts = zip(*self._waiting)
        values, correct = torch.stack(losses).tolist(), torch.stack(hits).tolist()
        rows = [[value * count, float(right), float(count)] for value, right, count in zip(values, correct, counts)]
        rows.append([float(due and self.processes.first), 0.0, 0.0])
        rows = self.processes.sum(rows, losses[0].device)
        self.due = rows.pop()[0] > 0
        for step, (total, right, count) in zip(steps, rows):
            if not math.isfinite(total) and self.broken is None:
                self.broken = step, total / count
            self.loss, self.correct, self.seen = self.loss + total, self.correct + right, self.seen + count
        self._waiting.clear()


def _check(tally: _Tally, now: int, epoch: int, where: Callable[[], str] | None = None) -> None:
    if tally.broken is not None:
        step, value = tally.broken
        said = where() if where is not None else f"noticed at step {now}"
        raise NonFiniteError(f"the loss is {value} at step {step} (epoch {epoch}): {said}")


def _check_weights(core: nn.Module, step: int, epoch: int, processes: Processes) -> None:
    broken = next(filter(None, processes.gather(first_non_finite(core.state_dict()))), None)
    if broken is not None:
        raise NonFiniteError(f"{broken} is not finite after step {step} (epoch {epoch})")


@torch.no_grad()
def _norm_ratio(model: nn.Module) -> float:
    """||w||_2 / ||w||_1 over all parameters (Figure 2 of the paper): the sparser, the larger."""
    sums = [(gathered(p.float().square().sum()), gathered(p.float().abs().sum())) for p in model.parameters()]
    squares, absolutes = (sum(map(float, part)) for part in zip(*sums))
    return math.sqrt(squares) / absolutes if absolutes else 0.0
