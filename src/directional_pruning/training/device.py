"""Which device trains, and how."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["measured_convolutions", "pick_device"]


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


def measured_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Let cuDNN try its algorithms on the first batches and take the fastest, where there is cuDNN."""
    if device.type != "cuda":
        return nullcontext()
    kept = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=kept[0], allow_tf32=kept[1])
