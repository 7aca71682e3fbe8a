"""What several rooms need of torch: local shards, values of any tensor, module modes, checked files, the device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .files import CorruptFileError

__all__ = [
    "LOCKED",
    "count_nonzeros",
    "local_tensor",
    "module_mode",
    "obstacle",
    "pick_device",
    "plain_tensors",
    "read_torch_file",
]

# By the identity of a parameter whose zeros freeze_zeros locks or has locked, its module: there the weights need not
# follow from a dual. Not weak in the tensor, because torch swaps none with weak references.
LOCKED: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()


def local_tensor(t: Any) -> Tensor:
    """The shard of a DTensor that this process holds; any other tensor itself."""
    # Not by its type: importing torch.distributed.tensor takes a second.
    return t.to_local() if hasattr(t, "to_local") else t


def obstacle(t: Tensor) -> str:
    """Why the values of a tensor cannot be read as they are, and what to call first; empty if they can.

    >>> obstacle(torch.empty(2, device="meta"))
    'it has no values on the meta device (load or initialise it first)'
    """
    if is_lazy(t) or t.is_meta or type(t).__name__ == "FakeTensor":
        return f"it has no values{' on the meta device' if t.is_meta else ''} (load or initialise it first)"
    if hasattr(t, "to_local"):
        complete = "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
        return f"it is sharded (call its full_tensor() first, or {complete})"
    if t.is_quantized or (_is_wrapper(t) and hasattr(t, "dequantize")):
        return f"it is quantized, {type(t).__name__ if _is_wrapper(t) else t.dtype} (call its dequantize() first)"
    return f"it is a {type(t).__name__} (make it a torch.Tensor first)" if _is_wrapper(t) else ""


def _is_wrapper(t: Tensor) -> bool:
    """Whether the tensor is of a class that stores its values in other tensors."""
    return is_traceable_wrapper_subclass(t) or (type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__)


def plain_tensors(t: Tensor) -> list[Tensor]:
    """The tensors with memory that a tensor consists of: itself, its local shard, or what a wrapper stores."""
    if hasattr(t, "to_local"):
        return plain_tensors(local_tensor(t))
    if is_traceable_wrapper_subclass(t):
        return [part for name in t.__tensor_flatten__()[0] for part in plain_tensors(getattr(t, name))]
    if is_lazy(t) or t.is_mkldnn or (t.is_nested and t.layout is torch.strided):  # its memory is not open
        return []
    if t.layout is torch.strided:
        return [t]
    return [t._values() if t.layout is torch.sparse_coo else t.values()]


@torch.no_grad()
def count_nonzeros(name: str, t: Tensor) -> int:
    """How many elements are not zero; of a sharded tensor those on all processes, of a quantized one its values.

    Raises ValueError, with the name, for a tensor whose values cannot be read.

    >>> count_nonzeros("weight", torch.eye(3).to(torch.float8_e4m3fn))
    3
    """
    sharded = hasattr(t, "to_local")
    if (reason := obstacle(t)) and not sharded and "dequantize" not in reason:
        raise ValueError(f"cannot count the zeros of {name!r}: {reason}")
    try:
        values: Any = t.detach()
        if reason and not sharded:
            values = t.dequantize()
        count: Any = ((values if values.layout is torch.strided else values.to_dense()) != 0).sum()
        return int(count.full_tensor() if sharded else count)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = reason or f"{t.dtype}, {t.layout} ({str(error).splitlines()[0][:80]})"
        raise ValueError(f"cannot count the zeros of {name!r}: {reason}") from error


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
