"""The configuration of a run: from a recipe to ``config.json`` and back."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from ..files import CorruptFileError, write_json
from ..run_folder import CONFIG, read_config, versions
from ..tensors import pick_device
from .recipe import Recipe
from .registry import RECIPES

__all__ = ["create_run", "load_run", "move_run"]


def create_run(folder: Path, recipe: Recipe, device: torch.device, **facts: int) -> None:
    """Make the run's folder and write ``config.json``: all that training needs, and the ``facts``.

    Raises:
        FileExistsError: if the folder exists; a run never overwrites another.
    """
    folder.mkdir(parents=True)
    hyperparameters = recipe.hyperparameters()
    # A flag that is off and a name that is empty are their own defaults; a target takes the place of c and mu.
    unused = ("target",) if recipe.target is None else ("c", "mu")
    flags = [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')} {quote(str(value))}"
        for name, value in hyperparameters.items()
        if value is not False and value != "" and name not in unused
    ]
    machine = {
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "threads": recipe.threads or torch.get_num_threads(),
    }
    config = {
        "recipe": recipe.name,
        "command": f"dirprune train {recipe.name} {' '.join(flags)} --device {device}",
        **hyperparameters,
        **facts,
        "versions": versions(torch.__version__) | machine,
    }
    try:
        write_json(folder / CONFIG, config)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # else the same command would find that it exists
        raise


def load_run(folder: Path) -> tuple[Recipe, torch.device]:
    """The recipe and the device of a run; if that device is not available here, the best that is.

    Raises:
        FileNotFoundError: if the folder holds no ``config.json``.
        CorruptFileError: for a configuration that cannot be read or names an unknown recipe.
    """
    config = read_config(folder)
    try:
        recipe = RECIPES[config["recipe"]]()
        # A run may be older than a setting; then it was trained with the recipe's value.
        recipe = replace(recipe, **{name: config[name] for name in recipe.hyperparameters() if name in config})
        device = config["versions"]["device"]
        try:
            return recipe, pick_device(device)
        except ValueError:
            return recipe, pick_device()
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptFileError(f"{folder / CONFIG} is not a readable configuration of a run: {error}") from error


def move_run(folder: Path, device: torch.device, **changes: Any) -> None:
    """Note that a run continues on another device, or with other settings, such as ``data`` in another place.

    Raises:
        FileNotFoundError, CorruptFileError: as :func:`load_run`.
        ValueError: for a value out of range.
    """
    recipe, _ = load_run(folder)
    replace(recipe, **changes)
    config = read_config(folder)
    config["versions"]["device"] = str(device)
    if "data" in changes:
        for fact in ("training_images", "test_images"):  # of the old data
            config.pop(fact, None)
    write_json(folder / CONFIG, config | changes)
