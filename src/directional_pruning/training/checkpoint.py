"""The checkpoint file, from which training continues bit-identically."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..files import CorruptFileError, write_with
from ..tensors import read_torch_file
from .distributed import SINGLE_PROCESS, Processes, full_state_dict, load_full_state_dict
from .totals import EpochTotals

__all__ = ["Checkpointer"]


class Checkpointer:
    """Saves training to a file and restores it; without a path it only measures time.

    Attributes:
        records: those of the finished epochs.
        totals: the sums of an epoch that was not finished, or None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        processes: Processes,
        seconds: float,
    ) -> None:
        """Restore the file where it exists.

        Raises:
            CorruptFileError: for a file that cannot be read, or that belongs to another network or optimizer.
        """
        self._path = Path(path) if path is not None else None
        self._training = model, optimizer, scheduler
        self._processes, self._seconds = processes, seconds
        progress: dict[str, Any] = {"records": [], "part": None, "seconds": 0.0}
        if self._path is not None and self._path.exists():
            progress = load_checkpoint(self._path, *self._training, processes)
        self.records: list[dict[str, Any]] = progress["records"]
        self.totals: dict[str, Any] | None = progress["part"]
        self._began = time.perf_counter() - progress["seconds"]
        self._saved = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of training so far, those before the last restart included."""
        return time.perf_counter() - self._began

    def overdue(self) -> bool:
        """Whether the last checkpoint is too old, by the clock of this process."""
        return time.perf_counter() - self._saved > self._seconds

    def save(self, totals: dict[str, Any] | None = None) -> None:
        """Write the file; ``totals`` are those of the current epoch, if it is not finished."""
        if self._path is not None:
            progress = {"records": self.records, "part": totals, "seconds": self.elapsed()}
            save_checkpoint(self._path, *self._training, progress, self._processes)
            self._saved = time.perf_counter()


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    progress: dict[str, Any],
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Write model, optimizer, scheduler, random generators and progress; the old file stays until all is written.

    All processes have to call; the first one writes. The file holds full tensors, also of sharded weights.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generators = {"cpu": torch.get_rng_state(), device.type: _generator_state(device)}
    state = {
        "model": full_state_dict(model.state_dict()),
        "optimizer": full_state_dict(optimizer.state_dict()),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "generators": processes.all_gather(generators),
        "progress": progress,
    }
    if processes.first:
        write_with(path, lambda file: torch.save(state, file))
    processes.barrier()


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote, in place, and return the progress.

    The number of processes may differ; then random numbers such as dropout's differ from here on.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptFileError: for a file that cannot be read, or that belongs to another network or optimizer.
    """
    state = read_torch_file(path)
    try:
        load_full_state_dict(model, optimizer, state)
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        if len(state["generators"]) == processes.size:
            generators = state["generators"][processes.rank]
            torch.set_rng_state(generators["cpu"])
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            if device.type in generators:
                _set_generator_state(device, generators[device.type])
        progress = state["progress"]
        if not all(isinstance(record[key], int) for record in progress["records"] for key in ("step", "epoch")):
            raise TypeError("the step or the epoch of a record is not an integer")
        EpochTotals(processes, 0, progress["part"])
        return progress | {"seconds": float(progress["seconds"])}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not a checkpoint of this network and optimizer") from error


def _generator_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
