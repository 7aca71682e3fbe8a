"""Train a network: one plain loop."""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..progress import Progress, ignore_progress
from ..sparsity import sparsity_report
from .checkpoint import Checkpointer
from .distributed import SINGLE_PROCESS, Processes, full_tensor, no_sync
from .evaluation import Batches, Loss, evaluate
from .nonfinite import NonFiniteError, blame, first_non_finite
from .totals import EpochTotals

__all__ = ["TrainingStopped", "fit"]


class TrainingStopped(KeyboardInterrupt):
    """Training was asked to stop before its end; the checkpoint, if there is one, holds every step so far."""


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
    progress: Progress = ignore_progress,
    task: str = "training",
    processes: Processes = SINGLE_PROCESS,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return one record per epoch.

    Args:
        batches: ``batches(epoch)``, the batches of an epoch (from 0): ``(inputs, labels)`` on the model's device. With
            several processes, the part of each batch that this process trains on. Let the order depend only on the
            epoch and a seed, and training that was stopped continues exactly. After a stop within an epoch,
            ``batches(epoch, n)`` is called instead; it leaves out the first ``n`` batches.
        scheduler: stepped once after every epoch.
        loss_fn: ``(logits (n, classes, ...), labels (n, ...))`` -> mean loss, a scalar.
        validation: makes the batches on which the network is evaluated after every epoch, always with cross-entropy.
        autocast: the dtype of matrix products, such as ``torch.bfloat16``; None is that of the weights.
        accumulate: parts of a batch that go through the network one after the other, to need less memory.
        checkpoint: a file written every ``checkpoint_every`` epochs, when ``checkpoint_seconds`` have passed since the
            last time, and at the end. If it exists, training continues from it, bit-identically to training without
            a stop, and ``progress`` is first called for the past epochs.
        progress: called under the name ``task`` after each epoch, with the epoch's record.
        processes: those that train ``model`` together; it is already parallelized over them.
        stop: called at each step. Where it returns True, in any of the processes, the checkpoint is written after this
            step (of several processes on other devices than a CPU, up to 32 steps later) and training ends.

    Returns:
        Records with epoch (from 1), step, lr, train_loss, train_accuracy, validation_loss, validation_accuracy,
        sparsity_all, sparsity_prunable and, where the optimizer prunes, sparsity_pruned (fractions), norm_ratio
        (||w||_2 / ||w||_1 over all parameters), threshold (the largest g of gRDA, 0 for other optimizers) and seconds
        of training so far. Training figures are means over the steps of the epoch.

    Raises:
        TrainingStopped: if ``stop`` returned True before the last step was done.
        NonFiniteError: for a loss or a weight that is not finite. On a CPU the step that would use it is not taken;
            on other devices up to 32 more steps are. The checkpoint file is still the last good one.
        CorruptFileError: for a checkpoint that cannot be read or belongs to another network or optimizer.
    """
    core = model.module if isinstance(model, DistributedDataParallel) else model
    device = next((p.device for p in core.parameters()), torch.device("cpu"))
    read_each_step = _reads_each_step(device)
    # A compiled network may keep its results in the memory of a CUDA graph, until the next step.
    graphs = device.type == "cuda" and core._compiled_call_impl is not None
    saver = Checkpointer(checkpoint, core, optimizer, scheduler, processes, checkpoint_seconds)
    records, unfinished = saver.records, saver.totals

    def save_due() -> bool:
        # All processes save together: by the first one's clock, or if any has to stop.
        return stop() or (processes.first and saver.overdue())

    for record in records:
        progress(task, record["epoch"], epochs, record)
    step = (records[-1]["step"] if records else 0) + (unfinished["batches"] if unfinished else 0)

    for epoch in range(len(records) + 1, epochs + 1):
        model.train()
        lr = float(optimizer.param_groups[0]["lr"])
        totals = EpochTotals(processes, epoch, unfinished)
        for inputs, labels in batches(epoch - 1, totals.batches) if unfinished else batches(epoch - 1):
            step += 1
            optimizer.zero_grad()
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()
            for x, y, logits, loss in _forward_parts(model, inputs, labels, loss_fn, autocast, accumulate):
                totals.add(step, loss, logits, y)
                if read_each_step:
                    totals.read(step, save_due(), cause=lambda x=x: blame(core, x, processes))
                (loss if len(y) == len(labels) else loss * (len(y) / len(labels))).backward()
            optimizer.step()
            totals.batches += 1
            if not read_each_step and (totals.full or (processes.size == 1 and stop())):
                totals.read(step, save_due())
            if totals.save_due:
                _check_weights(core, step, epoch, processes)
                saver.save(totals.state())
                totals.save_due = False
                if any(processes.all_gather(stop())):
                    raise TrainingStopped
        totals.read(step)
        unfinished = None
        if scheduler is not None:
            scheduler.step()
        processes.broadcast_buffers(core)
        _check_weights(core, step, epoch, processes)
        record = {"epoch": epoch, "step": step, "lr": lr, **_epoch_record(totals, core, optimizer)}
        if validation is not None:
            measured = evaluate(core, validation(), autocast=autocast, processes=processes)
            record |= {"validation_loss": measured["loss"], "validation_accuracy": measured["accuracy"]}
        records.append(record | {"seconds": saver.elapsed()})
        stopping = any(processes.all_gather(stop()))
        if epoch % checkpoint_every == 0 or epoch == epochs or stopping or processes.broadcast(saver.overdue()):
            saver.save()
        progress(task, epoch, epochs, records[-1])
        if stopping and epoch < epochs:
            raise TrainingStopped
    return records


def _reads_each_step(device: torch.device) -> bool:
    """Whether to read each loss before its step; on other devices than a CPU that would wait for the device."""
    return device.type == "cpu"


def _forward_parts(
    model: nn.Module, inputs: Tensor, labels: Tensor, loss_fn: Loss, autocast: torch.dtype | None, parts: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Inputs, labels, logits and loss of each part of a batch; gradients are synchronized after the last part."""
    pieces = list(zip(inputs.chunk(parts), labels.chunk(parts)))
    for i, (x, y) in enumerate(pieces):
        with no_sync(model, i + 1 < len(pieces)):
            with torch.autocast(labels.device.type, autocast, enabled=autocast is not None):
                logits = model(x)
                loss = loss_fn(logits, y)
            yield x, y, logits, loss


def _epoch_record(totals: EpochTotals, core: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """What an epoch's record says of training and of the weights."""
    sparsity = sparsity_report(core, optimizer=optimizer)
    pruned = {"sparsity_pruned": sparsity.pruned.sparsity} if sparsity.pruned.layers else {}
    thresholds = [float(state["threshold"]) for state in optimizer.state.values() if "threshold" in state]
    return {
        "train_loss": totals.loss / totals.seen,
        "train_accuracy": totals.correct / totals.seen,
        "sparsity_all": sparsity.sparsity,
        "sparsity_prunable": sparsity.prunable.sparsity,
        **pruned,
        "norm_ratio": _norm_ratio(core),
        "threshold": max(thresholds, default=0.0),
    }


def _check_weights(core: nn.Module, step: int, epoch: int, processes: Processes) -> None:
    name = next(filter(None, processes.all_gather(first_non_finite(core.state_dict()))), None)
    if name is not None:
        raise NonFiniteError(f"{name} is not finite after step {step} (epoch {epoch})")


@torch.no_grad()
def _norm_ratio(model: nn.Module) -> float:
    """||w||_2 / ||w||_1 over all parameters (Figure 2 of the paper): the sparser, the larger."""
    sums = [(full_tensor(p.float().square().sum()), full_tensor(p.float().abs().sum())) for p in model.parameters()]
    squares, absolutes = (sum(map(float, part)) for part in zip(*sums))
    return math.sqrt(squares) / absolutes if absolutes else 0.0
