"""Start or resume training: choose device, processes, data and folder, and check them before anything is written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch

from ..data import Photos, Splits, TextSplits
from ..run_folder import CONFIG, sweep_runs
from ..tensors import pick_device
from ..training import Processes, join_processes
from .config import create_run, load_run, move_run
from .locking import locked_runs
from .recipe import Recipe
from .sweep import create_sweep, prepare_torch

__all__ = ["Start", "check_network", "create_folder", "new_folder", "prepare_runs", "resume_runs", "start_runs"]


@dataclass(frozen=True)
class Start:
    """All that :func:`~directional_pruning.runs.train_sweep` needs."""

    folder: Path
    """Of the run, or of the sweep."""
    runs: list[Path]
    recipe: Recipe
    """The first run's."""
    splits: Splits | TextSplits
    processes: Processes


def start_runs(recipes: Sequence[Recipe], device: str = "auto", *, jobs: int = 1, out: Path | None = None) -> Start:
    """Make the folder of a new run, or of a sweep, one run for each recipe.

    Args:
        device: as for ``pick_device``.
        jobs: networks to train side by side.
        out: as for :func:`create_folder`.

    Raises:
        ValueError: for recipes, data, device and processes that do not fit together; then no folder is made.
        FileExistsError: if ``out`` exists.
    """
    place = pick_device(device)
    processes, splits = prepare_runs(recipes, place, jobs)
    folder = create_folder(out, recipes, place, splits) if processes.first else None
    folder = processes.broadcast(folder)
    return Start(folder, sweep_runs(folder), recipes[0], splits, processes)


def resume_runs(folder: Path, values: Mapping[str, Any], device: str = "auto", *, jobs: int = 1) -> Start:
    """Prepare a run or a sweep that was stopped, on another device or with other ``values`` where they are given.

    Raises:
        ValueError: for values, data, device and processes that do not fit together; then the runs stay as they were.
        FileNotFoundError, CorruptFileError: for a folder without a readable run.
        BlockingIOError: for a run that another process trains.
    """
    runs = sweep_runs(folder)
    loaded = [load_run(run) for run in runs]
    recipes = [replace(recipe, **values) for recipe, _ in loaded]
    place = loaded[0][1] if device == "auto" else pick_device(device)
    processes, splits = prepare_runs(recipes, place, jobs)
    if processes.first and (values or device != "auto"):
        with locked_runs(runs):
            for run in runs:
                move_run(run, place, **values)
    processes.barrier()
    return Start(folder, runs, recipes[0], splits, processes)


def prepare_runs(recipes: Sequence[Recipe], device: torch.device, jobs: int) -> tuple[Processes, Splits | TextSplits]:
    """Join the processes of ``torchrun``, load the data and check that recipes, processes and data fit together.

    Raises:
        ValueError: for what does not fit.
    """
    recipe = recipes[0]
    prepare_torch(recipe.threads)
    processes = join_processes(device)
    if processes.size > 1 and (len(recipes) > 1 or jobs > 1):
        raise ValueError("under torchrun all processes train one run together: no sweep and no --jobs")
    if recipe.batch_size % processes.size:
        size = processes.size
        raise ValueError(f"invalid batch_size: {recipe.batch_size} (must be a multiple of the {size} processes)")
    # The first process goes first, because it downloads the data for all.
    local = processes.local_device(device)
    splits = recipe.splits(local) if processes.first else None
    processes.barrier()
    splits = splits or recipe.splits(local)
    check_network(recipe, splits)
    return processes, splits


def check_network(recipe: Recipe, splits: Splits | TextSplits) -> None:
    """Send two samples through the recipe's network.

    Raises:
        ValueError: for a network that is unknown or does not take these samples.
        ModuleNotFoundError: for a network of a package that is missing.
    """
    network = recipe.network().eval()
    part = splits.validation
    if isinstance(part, Photos):
        part = replace(part, workers=0)  # two images are not worth starting processes
    inputs, _ = next(iter(part.batches(2)))
    try:
        with torch.no_grad():
            logits = network(inputs.cpu())
    except (RuntimeError, TypeError, ValueError) as error:  # whatever a layer raises
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model {recipe.model} does not take samples of {tuple(inputs.shape[1:])}: {reason}"
        ) from error
    if logits.shape[:2] != (len(inputs), recipe.num_classes):
        raise ValueError(f"model {recipe.model} gives {tuple(logits.shape)}, not {recipe.num_classes} logits a sample")


def create_folder(
    out: Path | None, recipes: Sequence[Recipe], device: torch.device, splits: Splits | TextSplits | None = None
) -> Path:
    """Make the folder of a run, or of a sweep of several, and return it.

    Without ``out`` it is ``runs/NAME-seedN`` or ``runs/NAME-sweep``, or the first of ``-2``, ``-3``, ... that does not
    exist. A run that ``torchrun`` restarts keeps its folder. If ``splits`` are files, the number of images is noted,
    which tells whether they can be the paper's.

    Raises:
        FileExistsError: if ``out`` exists.
    """
    recipe = recipes[0]
    name = f"{recipe.name}-seed{recipe.seed}" if len(recipes) == 1 else f"{recipe.name}-sweep"
    existing = list(_existing(name)) if out is None else []
    out = out or new_folder(name)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        created = [folder for folder in (out, *reversed(existing)) if (folder / CONFIG).exists()]
        if created:
            return created[0]
    facts = {}
    if splits is not None and recipe.dataset.files:
        held_out = 0 if recipe.paper_protocol else len(splits.validation)
        facts = {"training_images": len(splits.train) + held_out, "test_images": len(splits.test)}
    if len(recipes) == 1:
        create_run(out, recipe, device, **facts)
    else:
        create_sweep(out, recipes, device, **facts)
    return out


def new_folder(name: str) -> Path:
    """``runs/name``, or the first of ``-2``, ``-3``, ... that does not exist."""
    existing = len(list(_existing(name)))
    return Path("runs") / (f"{name}-{existing + 1}" if existing else name)


def _existing(name: str) -> Iterator[Path]:
    return takewhile(Path.exists, (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in count(1)))
