"""A run: one folder in which the dense twin and the sparse network are trained from the same start."""

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR

from ..data import Splits, TextSplits
from ..files import CorruptFileError, replacing
from ..tensors import pick_device
from ..training import (
    ALONE,
    Batches,
    NonFiniteError,
    Processes,
    fit,
    gathered,
    measured_convolutions,
    spread,
)
from .paper import RECIPES
from .recipe import Recipe
from .summary import summarize

__all__ = ["NETWORKS", "create_run", "load_run", "move_run", "train_network", "train_run", "write_json"]

NETWORKS = ("sgd", "grda")
OnEpoch = Callable[[str, dict[str, Any]], None]


def create_run(folder: Path, recipe: Recipe, device: torch.device, **noted: int) -> None:
    """Make the run's folder and write ``config.json``, all that :func:`train_run` needs, and what else is ``noted``.

    Raises:
        FileExistsError: where the folder exists: a run is never written over another.
    """
    folder.mkdir(parents=True)
    hyperparameters = recipe.hyperparameters()
    # A flag that is off and a name that is empty are their own defaults.
    flags = [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')} {quote(str(value))}"
        for name, value in hyperparameters.items()
        if value is not False and value != ""
    ]
    config = {
        "recipe": recipe.name,
        "command": f"dirprune train {recipe.name} {' '.join(flags)} --device {device}",
        **hyperparameters,
        **noted,
        "versions": {
            "directional-pruning": version("directional-pruning"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": str(device),
            "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
            "threads": recipe.threads or torch.get_num_threads(),
        },
    }
    write_json(folder / "config.json", config)


def load_run(folder: Path) -> tuple[Recipe, torch.device]:
    """The recipe and the device a run was created with; where there is no such device, the best there is.

    Raises:
        FileNotFoundError: where the folder holds no ``config.json``.
        CorruptFileError: for a configuration that cannot be read or names an unknown recipe.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        recipe = RECIPES[config["recipe"]]()
        # A setting younger than the run had the recipe's own value.
        known = {name: config[name] for name in recipe.hyperparameters() if name in config}
        recipe, name = replace(recipe, **known), config["versions"]["device"]
        try:
            return recipe, pick_device(name)
        except ValueError:
            return recipe, pick_device()
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not a readable configuration of a run: {error}") from error


def move_run(folder: Path, device: torch.device, **changes: Any) -> None:
    """Note that a run goes on elsewhere: on another device, with its ``data`` in another place, ...

    Raises:
        FileNotFoundError, CorruptFileError: as :func:`load_run`.
        ValueError: for a value out of range.
    """
    recipe, _ = load_run(folder)
    replace(recipe, **changes)
    config = json.loads((folder / "config.json").read_text())
    config["versions"]["device"] = str(device)
    if "data" in changes:
        for noted in ("training_images", "test_images"):  # of the data that were there
            config.pop(noted, None)
    write_json(folder / "config.json", config | changes)


def train_run(
    folder: Path,
    *,
    on_epoch: OnEpoch | None = None,
    splits: Splits | TextSplits | None = None,
    processes: Processes = ALONE,
    **options: Any,
) -> dict[str, Any]:
    """Train both networks of a run, or go on where it was stopped, and return its summary.

    Both start from the same weights and see the same batches. The folder then holds ``metrics.jsonl``, for each
    network ``checkpoint.pt`` and ``model.safetensors``, ``model.sparse.safetensors`` and ``summary.json``. Going on
    after a stop at any moment, a kill included, ends with bit-identical networks on a CPU.

    Args:
        on_epoch: called with the network (``"sgd"``, ``"grda"``) and the epoch's record, past epochs included.
        splits: the run's data, where they are at hand already.
        processes: those that train the networks together; the first one writes the files.
        options: of :func:`train_network`.

    Raises:
        NonFiniteError, CorruptFileError: as :func:`~directional_pruning.training.fit`.
    """
    recipe, device = load_run(folder)
    splits = splits or recipe.splits(processes.own(device))
    for network in NETWORKS:
        told = partial(on_epoch, network) if on_epoch is not None else None
        train_network(folder, network, splits, on_epoch=told, processes=processes, **options)
    summary: dict[str, Any] = {}
    if processes.first:
        summary = summarize(folder, recipe, processes.own(device), splits)
        write_json(folder / "summary.json", summary)
    return processes.share(summary)


def train_network(
    folder: Path,
    network: str,
    splits: Splits | TextSplits,
    *,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    processes: Processes = ALONE,
    checkpoint_every: int = 5,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Train one network of a run, or go on where it was stopped; its epochs are written to ``metrics.jsonl``.

    Args:
        checkpoint_every, checkpoint_seconds: epochs or seconds between checkpoints, the most that a kill can cost.
    """
    recipe, device = load_run(folder)
    device = processes.own(device)
    (folder / network).mkdir(exist_ok=True)
    if processes.first:
        for left in (folder / network).glob(".*.tmp"):  # by a process that was killed while it wrote
            left.unlink()
    torch.manual_seed(recipe.seed)
    core = recipe.network().to(device)
    sharded = processes.size > 1 and recipe.parallel == "fsdp"
    if recipe.channels_last and not sharded:  # FSDP2 takes none but contiguous weights
        core.to(memory_format=torch.channels_last)  # pyrefly: ignore
    if recipe.compile:
        # A CUDA graph would write the gradients of a batch's second part over those of the first.
        graphs = device.type == "cuda" and recipe.accumulate == 1
        core.compile(mode="reduce-overhead" if graphs else "default")
    model = spread(core, processes, recipe.parallel)
    if processes.size > 1:
        # Every process has its own dropout.
        torch.manual_seed((recipe.seed * 1_000_003 + processes.rank + 1) % 2**63)
    optimizer = recipe.optimizer(core, network)
    part = (processes.rank, processes.size)

    def batches(epoch: int, first: int = 0) -> Batches:
        # Seeds of neighbouring runs must not share epochs.
        seed = recipe.seed * 1_000_003 + epoch
        return splits.train.batches(recipe.batch_size, shuffle_seed=seed, first=first, part=part)

    logged = _log(folder, network, recipe.epochs, recipe.tensorboard and processes.first)
    with measured_convolutions(device), logged as log:

        def told(record: dict[str, Any]) -> None:
            if processes.first:
                log(record)
                if on_epoch is not None:
                    on_epoch(record)

        try:
            fit(
                model,
                optimizer,
                batches,
                epochs=recipe.epochs,
                scheduler=LambdaLR(optimizer, lambda epoch: recipe.schedule(epoch, recipe.epochs)),
                loss_fn=partial(F.cross_entropy, label_smoothing=recipe.label_smoothing),
                validation=lambda: splits.validation.batches(recipe.batch_size, part=part),
                autocast=recipe.autocast(device),
                accumulate=recipe.accumulate,
                checkpoint=folder / network / "checkpoint.pt",
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                on_epoch=told,
                processes=processes,
            )
        except NonFiniteError as error:
            if processes.first:  # a run that diverged must not look like one that was stopped
                log({"diverged": str(error)})
            raise
    state = gathered(core.state_dict())
    if processes.first:
        weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        with replacing(folder / network / "model.safetensors") as beside:
            beside.write_bytes(weights)
    processes.wait()


@contextmanager
def _log(folder: Path, network: str, epochs: int, tensorboard: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write records to ``metrics.jsonl``, a line each, and as events if wanted.

    A network has a file of its own, which begins anew with its first record, since the past epochs come again; the
    run's file is made of those of both.
    """
    own, mode = folder / network / "metrics.jsonl", "w"
    writer = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        events = folder / "tensorboard" / network
        shutil.rmtree(events, ignore_errors=True)
        writer = SummaryWriter(events)

    def log(record: dict[str, Any]) -> None:
        nonlocal mode
        with open(own, mode) as metrics:
            metrics.write(json.dumps({"network": network, "epochs": epochs, **record}) + "\n")
        mode = "a"
        parts = (folder / name / "metrics.jsonl" for name in NETWORKS)
        with replacing(folder / "metrics.jsonl") as beside:
            beside.write_text("".join(part.read_text() for part in parts if part.exists()))
        if writer is not None and "epoch" in record:
            for name in record.keys() - {"epoch"}:
                writer.add_scalar(name, record[name], record["epoch"])

    try:
        yield log
    finally:
        if writer is not None:
            writer.close()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")
