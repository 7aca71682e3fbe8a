"""What several rooms need of torch: local shards, module modes, checked files, the device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .files import CorruptFileError

__all__ = ["LOCKED", "local_tensor", "module_mode", "pick_device", "read_torch_file"]

# The parameters with zeros that freeze_zeros locks or has locked: there the weights need not follow from a dual.
LOCKED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def local_tensor(t: Any) -> Tensor:
    """The shard of a DTensor that this process holds; any other tensor itself."""
    # Not by its type: importing torch.distributed.tensor takes a second.
    return t.to_local() if hasattr(t, "to_local") else t


@contextmanager
def module_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set every module to training or evaluation mode; afterwards each has the mode that it had before.

    >>> model = nn.Sequential(nn.Dropout().eval(), nn.Dropout())
    >>> with module_mode(model, training=False):
    ...     print([module.training for module in model])
    [False, False]
    >>> [module.training for module in model]
    [False, True]
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def read_torch_file(path: Path, *, what: str = "checkpoint") -> Any:
    """Read a file of ``torch.save`` to the CPU, with its checksums tested and no code in it run.

    Args:
        what: names the expected content in the error message.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptFileError: if it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            # torch writes a checksum of each entry and never tests it. Files from before torch 1.6 have none.
            if is_zipfile(file) and (altered := ZipFile(file).testzip()) is not None:
                raise CorruptFileError(f"{path} is not a readable {what}: {altered} was altered")
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old storage types
                return torch.load(file, map_location="cpu", weights_only=True)
        except (CorruptFileError, MemoryError):
            raise
        # torch raises whatever its unpickler or archive reader met: RuntimeError, OSError, UnpicklingError, KeyError...
        except Exception as error:
            raise CorruptFileError(f"{path} is not a readable {what}") from error


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
