"""The hall that joins the wings: training, recipes, checkpoints, runs."""

from .device import measured_convolutions, pick_device
from .divergence import NonFiniteError
from .evaluate import evaluate
from .fit import fit
from .paper import RECIPES
from .processes import ALONE, Processes, join_processes
from .recipes import Recipe, chars_recipe, digits_recipe
from .run import NETWORKS, create_run, load_run, move_run, train_run
from .schedules import constant_schedule, cosine_schedule, drop_schedule, paper_schedule
from .sweep import create_sweep, prepare_torch, sweep_runs, train_sweep
from .variants import create_folder, variants

__all__ = [
    # train and measure
    "NonFiniteError",
    "constant_schedule",
    "cosine_schedule",
    "drop_schedule",
    "evaluate",
    "fit",
    "measured_convolutions",
    "paper_schedule",
    "pick_device",
    # recipes
    "RECIPES",
    "Recipe",
    "chars_recipe",
    "digits_recipe",
    # runs
    "NETWORKS",
    "create_folder",
    "create_run",
    "create_sweep",
    "load_run",
    "move_run",
    "prepare_torch",
    "sweep_runs",
    "train_run",
    "train_sweep",
    "variants",
    # several processes
    "ALONE",
    "Processes",
    "join_processes",
]
