"""Sums of an epoch's losses and correct answers, over all processes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .distributed import Processes
from .nonfinite import NonFiniteError

__all__ = ["EpochTotals"]

# Steps whose losses stay on the device before they are read together.
_UNREAD_STEPS = 32


class EpochTotals:
    """What an epoch's losses and correct answers add up to so far.

    Reading a loss from a GPU waits for the GPU. There the losses of many steps are read together.
    """

    def __init__(self, processes: Processes, epoch: int, saved: dict[str, Any] | None = None) -> None:
        """Begin an epoch, or continue from what :meth:`state` returned."""
        start = saved or {"loss": 0.0, "correct": 0.0, "seen": 0.0, "batches": 0}
        self.loss, self.correct, self.seen = start["loss"], start["correct"], start["seen"]
        self.batches: int = start["batches"]
        self.save_due = False
        self._processes, self._epoch = processes, epoch
        self._unread: list[tuple[int, Tensor, Tensor, int]] = []
        self._not_finite: tuple[int, float] | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint within the epoch holds."""
        return {"loss": self.loss, "correct": self.correct, "seen": self.seen, "batches": self.batches}

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note the result of one forward pass without reading it from the device."""
        self._unread.append((step, loss.detach(), (logits.argmax(1) == labels).sum(), labels.numel()))

    @property
    def full(self) -> bool:
        """Whether it is time to read."""
        return len(self._unread) >= _UNREAD_STEPS

    def read(self, now: int, overdue: bool = False, cause: Callable[[], str] | None = None) -> None:
        """Add up the results that are not read yet; all processes have to call.

        Args:
            now: the current step.
            overdue: whether this process wants a checkpoint. ``save_due`` becomes True if any process does.
            cause: finds where a loss that is not finite comes from.

        Raises:
            NonFiniteError: for a loss that is not finite.
        """
        if self._unread:
            self._add_up(overdue)
        if self._not_finite is not None:
            step, value = self._not_finite
            reason = cause() if cause is not None else f"noticed at step {now}"
            raise NonFiniteError(f"the loss is {value} at step {step} (epoch {self._epoch}): {reason}")

    def _add_up(self, overdue: bool) -> None:
        steps, losses, hits, counts = zip(*self._unread)
        values, correct = torch.stack(losses).tolist(), torch.stack(hits).tolist()
        rows = [[value * count, float(right), float(count)] for value, right, count in zip(values, correct, counts)]
        rows.append([float(overdue), 0.0, 0.0])
        rows = self._processes.sum(rows, losses[0].device)
        self.save_due = rows.pop()[0] > 0
        for step, (total, right, count) in zip(steps, rows):
            if not math.isfinite(total) and self._not_finite is None:
                self._not_finite = step, total / count
            self.loss, self.correct, self.seen = self.loss + total, self.correct + right, self.seen + count
        self._unread.clear()
