"""The file from which training goes on as if it had never stopped."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..files import CorruptFileError, replacing
from ..tensors import read_torch_file
from .distributed import ALONE, Processes, gathered, scatter

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    progress: dict[str, Any],
    processes: Processes = ALONE,
) -> None:
    """Write model, optimizer, scheduler, random generators and the progress; the old file stays until then.

    All processes have to call; the first one writes. The file holds whole tensors, however they were spread.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generators = {"cpu": torch.get_rng_state(), device.type: _generator_state(device)}
    state = {
        "model": gathered(model.state_dict()),
        "optimizer": gathered(optimizer.state_dict()),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "generators": processes.gather(generators),
        "progress": progress,
    }
    if processes.first:
        with replacing(path) as beside, open(beside, "wb") as file:
            # An open file, because of a failed write torch's own says nothing that a person could use.
            torch.save(state, file)
    processes.wait()


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote, in place, and return the progress.

    The number of processes may be another one; then random numbers such as dropout's go on differently.

    Raises:
        FileNotFoundError: where there is no such file.
        CorruptFileError: for a file that cannot be read, or that belongs to another network or optimizer.
    """
    state = read_torch_file(path)
    try:
        scatter(model, optimizer, state)
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        if len(state["generators"]) == processes.size:
            own = state["generators"][processes.rank]
            torch.set_rng_state(own["cpu"])
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            if device.type in own:
                _set_generator_state(device, own[device.type])
        return state["progress"]
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
