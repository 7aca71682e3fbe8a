"""Several runs of one recipe, over seeds and settings, one after the other or side by side."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data import Splits, TextSplits
from ..files import CorruptFileError
from ..training import ALONE, NonFiniteError, Processes
from .recipe import Recipe
from .run import NETWORKS, create_run, load_run, train_network, train_run, write_json

__all__ = ["create_sweep", "prepare_torch", "sweep_runs", "train_sweep"]

OnEpoch = Callable[[Path, str, dict[str, Any]], None]


def create_sweep(folder: Path, recipes: Sequence[Recipe], device: torch.device, **noted: int) -> None:
    """Make a folder that holds a run for each recipe; those that differ in c and mu alone share one dense twin.

    The folder of a shared twin is a symbolic link to that of the first run with it. What is ``noted`` each run holds.

    Raises:
        FileExistsError: where the folder exists.
    """
    folder.mkdir(parents=True)
    twins: dict[tuple[Any, ...], Path] = {}
    names = []
    for recipe in recipes:
        run = folder / f"seed{recipe.seed}-c{recipe.c}-mu{recipe.mu}"
        create_run(run, recipe, device, **noted)
        alike = tuple(replace(recipe, c=0.0, mu=0.5).hyperparameters().items())
        if alike in twins:
            (run / "sgd").symlink_to(os.path.relpath(twins[alike], run), target_is_directory=True)
        else:
            twins[alike] = run / "sgd"
            (run / "sgd").mkdir()
        names.append(run.name)
    # Last, so that a sweep that has it is whole.
    write_json(folder / "sweep.json", {"recipe": recipes[0].name, "runs": names})


def sweep_runs(folder: Path) -> list[Path]:
    """The runs of a sweep; of any other folder that folder alone.

    Raises:
        CorruptFileError: for a ``sweep.json`` that cannot be read.
    """
    path = folder / "sweep.json"
    if not path.exists():
        return [folder]
    try:
        return [folder / str(name) for name in json.loads(path.read_text())["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is not a readable sweep: {error}") from error


def train_sweep(
    folders: Sequence[Path],
    splits: Splits | TextSplits,
    *,
    jobs: int = 1,
    on_epoch: OnEpoch | None = None,
    processes: Processes = ALONE,
    **options: Any,
) -> dict[Path, str]:
    """Train the runs in ``folders``, or go on where they were stopped; finished ones are left alone.

    Args:
        splits: the data, which all of them share.
        jobs: networks that are trained side by side, each in a process of its own, on the one device.
        on_epoch: called with the run's folder, the network and the epoch's record.
        processes: those that train every network together, instead of ``jobs``.
        options: of :func:`~directional_pruning.training.train_network`.

    Returns:
        For each run that diverged, what happened; the others go on.
    """
    unfinished = [folder for folder in folders if not (folder / "summary.json").exists()]
    diverged = _train_side_by_side(unfinished, jobs, on_epoch, options) if jobs > 1 else {}
    for folder in unfinished:
        twin = _twin(folder)
        if folder in diverged or twin in diverged:
            diverged.setdefault(folder, diverged.get(twin, ""))
            continue
        told = partial(on_epoch, folder) if on_epoch is not None else None
        try:
            train_run(folder, on_epoch=told, splits=splits, processes=processes, **options)
        except NonFiniteError as error:
            diverged[folder] = str(error)
    return diverged


def _train_side_by_side(
    folders: Iterable[Path], jobs: int, on_epoch: OnEpoch | None, options: dict[str, Any]
) -> dict[Path, str]:
    """Train every network in one of ``jobs`` processes, a shared twin once; what diverged."""
    # Twins first: a run is finished when both of its networks are.
    tasks = [(folder, network) for network in NETWORKS for folder in folders if not (folder / network).is_symlink()]
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    threads = max(1, torch.get_num_threads() // jobs)
    diverged: dict[Path, str] = {}
    with ProcessPoolExecutor(min(jobs, len(tasks) or 1), mp_context=spawn, initializer=_end_with_parent) as pool:
        futures: dict[Future[None], Path] = {
            pool.submit(_work, folder, network, threads, options): folder for folder, network in tasks
        }
        try:
            told: dict[tuple[Path, str], int] = {}
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for folder, network in tasks:
                    told[folder, network] = _tell(folder, network, told.get((folder, network), 0), on_epoch)
                for future in done:
                    try:
                        future.result()
                    except NonFiniteError as error:
                        diverged.setdefault(futures[future], str(error))
        except BrokenProcessPool as error:
            raise ChildProcessError("a training process was killed; the machine may lack memory for --jobs") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return diverged


def _twin(folder: Path) -> Path:
    """The run whose dense twin this one has."""
    link = folder / "sgd"
    return Path(os.path.normpath(folder / link.readlink())).parent if link.is_symlink() else folder


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it is killed, rather than go on unseen in the folder of its run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(folder: Path, network: str, threads: int, options: dict[str, Any]) -> None:
    recipe, device = load_run(folder)
    prepare_torch(min(recipe.threads or threads, threads))
    train_network(folder, network, recipe.splits(device), **options)


def _tell(folder: Path, network: str, told: int, on_epoch: OnEpoch | None) -> int:
    """Report the epochs that another process has written behind the first ``told`` bytes; how many there are now."""
    path = folder / network / "metrics.jsonl"
    if on_epoch is None or not path.exists() or path.stat().st_size == told:
        return told
    with open(path, "rb") as file:
        # A file that became shorter was begun anew.
        start = file.seek(told if path.stat().st_size > told else 0)
        whole, newline, _ = file.read().rpartition(b"\n")
    for record in map(json.loads, whole.splitlines()):
        if "epoch" in record:
            on_epoch(folder, network, record)
    return start + len(whole) + len(newline)


def prepare_torch(threads: int | None) -> None:
    """Use so many threads, and no denormal numbers, which slow a CPU down several times as a network decays."""
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
