"""Which device trains."""

import torch

__all__ = ["pick_device"]


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
