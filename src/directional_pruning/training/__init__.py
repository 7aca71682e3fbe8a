"""The training loop: fit, evaluation, checkpoints, schedules, devices, several processes."""

from .device import measured_convolutions
from .distributed import ALONE, STRATEGIES, Processes, gathered, join_processes, spread
from .evaluation import Batches, Loss, evaluate
from .loop import fit
from .nonfinite import NonFiniteError
from .schedules import constant_schedule, cosine_schedule, drop_schedule, paper_schedule

__all__ = [
    # train and measure
    "Batches",
    "Loss",
    "NonFiniteError",
    "evaluate",
    "fit",
    "measured_convolutions",
    # schedules
    "constant_schedule",
    "cosine_schedule",
    "drop_schedule",
    "paper_schedule",
    # several processes
    "ALONE",
    "STRATEGIES",
    "Processes",
    "gathered",
    "join_processes",
    "spread",
]
