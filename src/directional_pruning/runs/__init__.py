"""Recipes, and the runs and sweeps that train them."""

from ..run_folder import NETWORKS, sweep_runs
from .export import compact_run, export_run
from .paper import RECIPES
from .recipe import Recipe, chars_recipe, digits_recipe
from .registry import create_folder, variants
from .run import create_run, load_run, move_run, train_run
from .sweep import create_sweep, prepare_torch, train_sweep

__all__ = [
    # recipes
    "RECIPES",
    "Recipe",
    "chars_recipe",
    "digits_recipe",
    "variants",
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
    # finished runs
    "compact_run",
    "export_run",
]
