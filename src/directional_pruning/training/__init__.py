"""The training loop: fit, evaluation, checkpoints, schedules, device settings and several processes."""

from .device import measured_convolutions
from .distributed import SINGLE_PROCESS, STRATEGIES, Processes, full_state_dict, join_processes, parallelize
from .evaluation import Batches, Loss, evaluate
from .loop import TrainingStopped, fit
from .nonfinite import NonFiniteError
from .schedules import constant_schedule, cosine_schedule, drop_schedule, paper_schedule

__all__ = [
    # train and measure
    "Batches",
    "Loss",
    "NonFiniteError",
    "TrainingStopped",
    "evaluate",
    "fit",
    "measured_convolutions",
    # schedules
    "constant_schedule",
    "cosine_schedule",
    "drop_schedule",
    "paper_schedule",
    # several processes
    "SINGLE_PROCESS",
    "STRATEGIES",
    "Processes",
    "full_state_dict",
    "join_processes",
    "parallelize",
]
