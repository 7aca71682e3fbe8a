"""The file from which training goes on as if it had never stopped."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..files import CorruptFileError, replacing

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None, records: list[dict[str, Any]]
) -> None:
    """Write model, optimizer, scheduler, random generators and the epochs' records; the old file stays until then."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "records": records,
    }
    with replacing(path) as beside, open(beside, "wb") as file:
        # An open file, because of a failed write torch's own says nothing that a person could use.
        torch.save(state, file)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None
) -> list[dict[str, Any]]:
    """Restore what :func:`save_checkpoint` wrote, in place, and return the records of the epochs done.

    Raises:
        FileNotFoundError: where there is no such file.
        CorruptFileError: for a file that cannot be read, or that belongs to another network or optimizer.
    """
    with open(path, "rb") as file:
        try:
            # torch writes a checksum of each entry but does not look at it.
            if (altered := ZipFile(file).testzip()) is not None:
                raise CorruptFileError(f"{path} is not a readable checkpoint: {altered} was altered")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except CorruptFileError:
            raise
        # torch raises whatever its unpickler or archive reader met: RuntimeError, OSError, UnpicklingError, KeyError...
        except Exception as error:
            raise CorruptFileError(f"{path} is not a readable checkpoint") from error
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["cpu_rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return state["records"]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not a checkpoint of this network and optimizer") from error
