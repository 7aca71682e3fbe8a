"""A run: one folder in which a dense baseline and a sparse network are trained from the same start."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..data import Splits, TextSplits, batch_slices
from ..files import replacing, write_json
from ..progress import Progress, ignore_progress
from ..run_folder import CHECKPOINT, NETWORKS, SUMMARY, WEIGHTS, Record
from ..training import (
    SINGLE_PROCESS,
    Batches,
    NonFiniteError,
    Processes,
    fit,
    full_state_dict,
    measured_convolutions,
    parallelize,
)
from .config import load_run
from .events import event_writer
from .locking import locked_runs
from .metrics import metrics_writer
from .recipe import Recipe
from .summary import summarize

__all__ = ["train_both", "train_network", "train_run"]


def train_run(
    folder: Path,
    *,
    progress: Progress = ignore_progress,
    splits: Splits | TextSplits | None = None,
    processes: Processes = SINGLE_PROCESS,
    **options: Any,
) -> Record:
    """Train both networks of a run, or continue where it was stopped, and return its summary.

    Both start from the same weights and see the same batches. The folder then holds ``metrics.jsonl``, for each
    network ``checkpoint.pt`` and ``model.safetensors``, ``model.sparse.safetensors`` and ``summary.json``. A run that
    was stopped at any moment, killed included, ends with bit-identical networks on a CPU.

    Args:
        progress: called for each network under the name ``str(folder / network)``, past epochs included.
        splits: the run's data, if they are loaded already.
        processes: those that train the networks together; the first one writes the files.
        options: of :func:`train_network`.

    Raises:
        BlockingIOError: if another process trains the run.
        NonFiniteError, CorruptFileError, TrainingStopped: as :func:`~directional_pruning.training.fit`.
    """
    with locked_runs([folder], processes):
        return train_both(folder, progress=progress, splits=splits, processes=processes, **options)


def train_both(
    folder: Path,
    *,
    progress: Progress,
    splits: Splits | TextSplits | None,
    processes: Processes,
    **options: Any,
) -> Record:
    """What :func:`train_run` does, for a caller that holds the run's lock."""
    recipe, device = load_run(folder)
    device = processes.local_device(device)
    splits = splits or recipe.splits(device)
    for network in NETWORKS:
        train_network(folder, network, recipe, device, splits, progress=progress, processes=processes, **options)
    summary: Record = {}
    if processes.first:
        summary = summarize(folder, recipe, device, splits)
        for network in NETWORKS:
            with open(folder / network / WEIGHTS, "rb") as file:  # has no checksum of its own
                summary[network]["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        write_json(folder / SUMMARY, summary)
    return processes.broadcast(summary)


def train_network(
    folder: Path,
    network: str,
    recipe: Recipe,
    device: torch.device,
    splits: Splits | TextSplits,
    *,
    progress: Progress = ignore_progress,
    processes: Processes = SINGLE_PROCESS,
    checkpoint_every: int = 5,
    checkpoint_seconds: float = 300.0,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train one network of a run, or continue where it was stopped; its epochs are written to ``metrics.jsonl``.

    Args:
        device: the device of this process.
        checkpoint_every, checkpoint_seconds: epochs or seconds between checkpoints, the most that a kill can cost.
        stop: as for :func:`~directional_pruning.training.fit`.
    """
    (folder / network).mkdir(exist_ok=True)
    if processes.first:
        for unfinished in (folder / network).glob(".*.tmp"):  # of a process that was killed while it wrote
            unfinished.unlink()
    core, model = _build(recipe, device, processes)
    part = (processes.rank, processes.size)
    an_epoch = len(list(batch_slices(len(splits.train), recipe.batch_size, part=part, equal=True)))
    optimizer = recipe.optimizer(core, network, steps=recipe.epochs * an_epoch)
    task = str(folder / network)

    def batches(epoch: int, first: int = 0) -> Batches:
        # Runs with neighbouring seeds must not share the order of any epoch.
        seed = recipe.seed * 1_000_003 + epoch
        return splits.train.batches(recipe.batch_size, shuffle_seed=seed, first=first, part=part)

    write = _record_writer(folder, network, recipe, processes)
    with measured_convolutions(device):

        def write_and_report(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
            if processes.first and record is not None:
                write(dict(record))
                progress(task, done, total, record)

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
                checkpoint=folder / network / CHECKPOINT,
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=checkpoint_seconds,
                progress=write_and_report,
                task=task,
                processes=processes,
                stop=stop,
            )
        except NonFiniteError as error:
            if processes.first:  # a run that diverged must not look like one that was stopped
                write({"diverged": str(error)})
            raise
    _save_weights(core, folder / network / WEIGHTS, processes)


def _build(recipe: Recipe, device: torch.device, processes: Processes) -> tuple[nn.Module, nn.Module]:
    """The network with its initial weights, and the same as it is called in training."""
    torch.manual_seed(recipe.seed)
    core = recipe.network().to(device)
    sharded = processes.size > 1 and recipe.parallel == "fsdp"
    if recipe.channels_last and not sharded:  # FSDP2 accepts only contiguous weights
        core.to(memory_format=torch.channels_last)  # pyrefly: ignore
    if recipe.compile:
        # A CUDA graph would write the gradients of a batch's second part over those of the first.
        graphs = device.type == "cuda" and recipe.accumulate == 1
        core.compile(mode="reduce-overhead" if graphs else "default")
    model = parallelize(core, processes, recipe.parallel)
    if processes.size > 1:
        # Every process needs its own dropout masks.
        torch.manual_seed((recipe.seed * 1_000_003 + processes.rank + 1) % 2**63)
    return core, model


def _record_writer(folder: Path, network: str, recipe: Recipe, processes: Processes) -> Callable[[Record], None]:
    """A function that writes a record to ``metrics.jsonl`` and, if the recipe wants them, TensorBoard events."""
    write = metrics_writer(folder, network, recipe.epochs)
    if not (recipe.tensorboard and processes.first):
        return write
    write_events = event_writer(folder / "tensorboard" / network)

    def write_both(record: Record) -> None:
        write(record)
        write_events(record)

    return write_both


def _save_weights(core: nn.Module, path: Path, processes: Processes) -> None:
    """Write the full weights; all processes have to call, the first one writes."""
    state = full_state_dict(core.state_dict())
    if processes.first:
        weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
        with replacing(path) as beside:
            beside.write_bytes(weights)
    processes.barrier()
