"""A search for the sparsest network within a drop: its settings, and the folder in which it can be resumed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data import Photos, Splits, TextSplits
from ..files import CorruptFileError, locked, parse_json, write_json
from ..run_folder import LOCK, SWEEP, TUNE, Record, sweep_runs
from ..tensors import pick_device
from .config import move_run
from .recipe import Recipe
from .registry import RECIPES
from .start import new_folder, prepare_runs

__all__ = ["METRICS", "Tuning", "resume_tuning", "start_tuning", "tuning_runs", "validation_labels", "write_tuning"]

METRICS = ("accuracy", "loss")


@dataclass(frozen=True)
class Tuning:
    """What is searched for, and where.

    Raises:
        ValueError: for a value out of range.
    """

    folder: Path
    recipe: Recipe
    """All networks are trained by it, with other targets and seeds."""
    device: torch.device
    splits: Splits | TextSplits
    drop: float
    """The most that may be lost: points of validation accuracy, or units of validation loss."""
    metric: str = "accuracy"
    trainings: int = 6
    """The most targets that are trained."""
    seeds: tuple[int, ...] = (0,)
    """The metric of a target is the mean over these seeds."""

    def __post_init__(self) -> None:
        _check(self.drop, self.metric, self.trainings)
        if not len(self.splits.validation):
            raise ValueError(f"{self.recipe.name} has no validation data to choose on: take away --paper-protocol")


def start_tuning(
    recipe: Recipe,
    *,
    drop: float,
    metric: str = "accuracy",
    trainings: int = 6,
    seeds: Sequence[int] = (),
    device: str = "auto",
    out: Path | None = None,
) -> Tuning:
    """Make the folder of a new search: ``runs/NAME-tune``, ``-2``, ..., or ``out``.

    Raises:
        ValueError: for values, data and device that do not fit together; then no folder is made.
        FileExistsError: if ``out`` exists.
    """
    _check(drop, metric, trainings)
    if recipe.paper_protocol:
        raise ValueError("the paper's protocol has no validation data to choose on: take away --paper-protocol")
    place, chosen = pick_device(device), tuple(dict.fromkeys(seeds or (recipe.seed,)))
    recipes = [replace(recipe, seed=seed) for seed in chosen]
    splits = _load(recipe, place)
    folder = out or new_folder(f"{recipe.name}-tune")
    tuning = Tuning(folder, recipes[0], place, splits, drop, metric, trainings, chosen)
    folder.mkdir(parents=True)
    write_tuning(tuning, {})
    return tuning


def resume_tuning(folder: Path, values: Mapping[str, Any], device: str = "auto") -> Tuning:
    """Prepare a search that was stopped, on another device or with other ``values`` where they are given.

    Raises:
        ValueError: for values, data and device that do not fit together.
        FileNotFoundError, CorruptFileError: for a folder without a readable search.
    """
    path = folder / TUNE
    if not path.is_file():
        raise FileNotFoundError(f"not a folder of tune (no {TUNE}): {folder}")
    try:
        record = parse_json(path.read_bytes())
        recipe = replace(RECIPES[record["recipe"]](), **record["hyperparameters"])
        settings = {key: record[key] for key in ("drop", "metric", "trainings")}
        seeds = tuple(int(seed) for seed in record["seeds"])
        stored = str(record["device"])
        _check(**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is not a readable search: {error}") from error
    place = pick_device(stored if device == "auto" else device)
    recipe = replace(recipe, **values)
    tuning = Tuning(folder, recipe, place, _load(recipe, place), seeds=seeds, **settings)
    if values or device != "auto":
        with locked(folder, LOCK):
            for run in tuning_runs(folder):
                move_run(run, place, **values)
            write_tuning(tuning, record)
    return tuning


def tuning_runs(folder: Path) -> list[Path]:
    """The runs of a search so far."""
    return sweep_runs(folder) if (folder / SWEEP).exists() else []


def validation_labels(splits: Splits | TextSplits) -> torch.Tensor:
    """The classes of the validation data, one after the other."""
    part = splits.validation
    if isinstance(part, Photos):  # whose batches would have to be decoded
        return part.source.labels[part.indices]
    return torch.cat([labels.flatten() for _, labels in part.batches(1024)])


def write_tuning(tuning: Tuning, result: Record) -> Record:
    """Write ``tune.json``: all that is needed to go on, and the results so far."""
    settings = {
        "recipe": tuning.recipe.name,
        "hyperparameters": tuning.recipe.hyperparameters(),
        "device": str(tuning.device),
        **{key: getattr(tuning, key) for key in ("drop", "metric", "trainings")},
        "seeds": list(tuning.seeds),
        "validation_samples": len(validation_labels(tuning.splits)),
        "unit": "characters" if isinstance(tuning.splits, TextSplits) else "images",
    }
    write_json(tuning.folder / TUNE, result | settings)
    return result | settings


def _check(drop: float, metric: str, trainings: int) -> None:
    if not 0 <= drop < math.inf:
        raise ValueError(f"invalid drop: {drop} (must be >= 0 and finite: points of accuracy, or units of the loss)")
    if metric not in METRICS:
        raise ValueError(f"invalid metric: {metric} (must be one of {', '.join(METRICS)})")
    if trainings < 1:
        raise ValueError(f"invalid trainings: {trainings} (must be >= 1)")


def _load(recipe: Recipe, device: torch.device) -> Splits | TextSplits:
    processes, splits = prepare_runs([recipe], device, jobs=1)
    if processes.size > 1:
        raise ValueError("under torchrun all processes train one run together: start a search without it")
    return splits
