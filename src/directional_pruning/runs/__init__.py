"""Recipes, and the runs and sweeps that train them."""

from ..run_folder import NETWORKS, sweep_runs
from .config import create_run, load_run, move_run
from .export import compact_run, export_run
from .recipe import Dataset, Recipe
from .registry import RECIPES, variants
from .run import train_run
from .small import chars_recipe, digits_recipe
from .start import Start, check_network, create_folder, resume_runs, start_runs
from .sweep import create_sweep, prepare_torch, train_sweep
from .tune import train_tuning
from .tuning import METRICS, Tuning, resume_tuning, start_tuning

__all__ = [
    # recipes
    "RECIPES",
    "Dataset",
    "Recipe",
    "chars_recipe",
    "check_network",
    "digits_recipe",
    "variants",
    # runs
    "NETWORKS",
    "Start",
    "create_folder",
    "create_run",
    "create_sweep",
    "load_run",
    "move_run",
    "prepare_torch",
    "resume_runs",
    "start_runs",
    "sweep_runs",
    "train_run",
    "train_sweep",
    # the sparsest network within a drop
    "METRICS",
    "Tuning",
    "resume_tuning",
    "start_tuning",
    "train_tuning",
    # finished runs
    "compact_run",
    "export_run",
]
