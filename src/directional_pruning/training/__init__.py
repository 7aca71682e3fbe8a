"""The hall that joins the wings: training, recipes, checkpoints, runs."""

from .fit import NonFiniteError, cosine_schedule, evaluate, fit, paper_schedule, pick_device
from .recipes import RECIPES, Recipe, chars_recipe, digits_recipe
from .run import NETWORKS, create_run, load_run, train_run

__all__ = [
    # train and measure
    "NonFiniteError",
    "cosine_schedule",
    "evaluate",
    "fit",
    "paper_schedule",
    "pick_device",
    # recipes
    "RECIPES",
    "Recipe",
    "chars_recipe",
    "digits_recipe",
    # runs
    "NETWORKS",
    "create_run",
    "load_run",
    "train_run",
]
