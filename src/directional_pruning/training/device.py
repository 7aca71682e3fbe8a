"""Settings of the device that trains."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["measured_convolutions"]


def measured_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Let cuDNN time its algorithms on the first batches and use the fastest; nothing happens on other devices."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=True, deterministic=cudnn.deterministic, allow_tf32=cudnn.allow_tf32)
