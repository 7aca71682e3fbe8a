"""Which device trains, and how."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["measured_convolutions"]


def measured_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Let cuDNN try its algorithms on the first batches and take the fastest, where there is cuDNN."""
    if device.type != "cuda":
        return nullcontext()
    kept = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=kept[0], allow_tf32=kept[1])
