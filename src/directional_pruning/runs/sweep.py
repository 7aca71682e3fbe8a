"""Several runs of one recipe, over seeds and settings, one after the other or side by side."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import Splits, TextSplits
from ..progress import Progress, ignore_progress
from ..run_folder import NETWORKS, SUMMARY, read_new_metrics, write_sweep
from ..training import SINGLE_PROCESS, NonFiniteError, Processes
from .config import create_run, load_run
from .recipe import Recipe
from .run import train_network, train_run

__all__ = ["create_sweep", "prepare_torch", "train_sweep"]


def create_sweep(folder: Path, recipes: Sequence[Recipe], device: torch.device, **facts: int) -> None:
    """Make a folder with a run for each recipe; recipes that differ only in c and mu share one dense baseline.

    The folder of a shared baseline is a symbolic link to that of the first such run. Each run notes the ``facts``.

    Raises:
        FileExistsError: if the folder exists.
    """
    folder.mkdir(parents=True)
    baselines: dict[tuple[Any, ...], Path] = {}
    names = []
    for recipe in recipes:
        run = folder / f"seed{recipe.seed}-c{recipe.c}-mu{recipe.mu}"
        create_run(run, recipe, device, **facts)
        key = tuple(replace(recipe, c=0.0, mu=0.5).hyperparameters().items())
        if key in baselines:
            (run / "sgd").symlink_to(os.path.relpath(baselines[key], run), target_is_directory=True)
        else:
            baselines[key] = run / "sgd"
            (run / "sgd").mkdir()
        names.append(run.name)
    write_sweep(folder, recipes[0].name, names)


def train_sweep(
    folders: Sequence[Path],
    splits: Splits | TextSplits,
    *,
    jobs: int = 1,
    progress: Progress = ignore_progress,
    processes: Processes = SINGLE_PROCESS,
    **options: Any,
) -> dict[Path, str]:
    """Train the runs in ``folders``, or continue where they were stopped; finished runs are skipped.

    Args:
        splits: the data of all runs.
        jobs: networks that are trained side by side on the one device, each in its own process.
        progress: called for each network under the name ``str(folder / network)``.
        processes: those that train every network together, instead of ``jobs``.
        options: of ``train_network``.

    Returns:
        For each run that diverged, the error message; the other runs continue.
    """
    unfinished = [folder for folder in folders if not (folder / SUMMARY).exists()]
    diverged = _train_side_by_side(unfinished, jobs, progress, options) if jobs > 1 else {}
    for folder in unfinished:
        baseline = _baseline_run(folder)
        if folder in diverged or baseline in diverged:
            diverged.setdefault(folder, diverged.get(baseline, ""))
            continue
        try:
            train_run(folder, progress=progress, splits=splits, processes=processes, **options)
        except NonFiniteError as error:
            diverged[folder] = str(error)
    return diverged


def _train_side_by_side(
    folders: Iterable[Path], jobs: int, progress: Progress, options: dict[str, Any]
) -> dict[Path, str]:
    """Train every network in one of ``jobs`` processes, a shared baseline once; return the runs that diverged."""
    # Baselines first: a run is finished when both of its networks are.
    tasks = [(folder, network) for network in NETWORKS for folder in folders if not (folder / network).is_symlink()]
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    threads = max(1, torch.get_num_threads() // jobs)
    diverged: dict[Path, str] = {}
    with ProcessPoolExecutor(min(jobs, len(tasks) or 1), mp_context=spawn, initializer=_end_with_parent) as pool:
        futures: dict[Future[None], Path] = {
            pool.submit(_train_in_worker, folder, network, threads, options): folder for folder, network in tasks
        }
        try:
            bytes_read = dict.fromkeys(tasks, 0)
            running = set(futures)
            while running:
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for folder, network in tasks:
                    position = bytes_read[folder, network]
                    records, bytes_read[folder, network] = read_new_metrics(folder, network, position)
                    for record in records:
                        progress(str(folder / network), record["epoch"], record["epochs"], record)
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


def _baseline_run(folder: Path) -> Path:
    """The run that trains the dense baseline of this one; the run itself unless it shares another's."""
    link = folder / "sgd"
    return Path(os.path.normpath(folder / link.readlink())).parent if link.is_symlink() else folder


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_in_worker(folder: Path, network: str, threads: int, options: dict[str, Any]) -> None:
    recipe, device = load_run(folder)
    prepare_torch(min(recipe.threads or threads, threads))
    train_network(folder, network, recipe, device, recipe.splits(device), **options)


def prepare_torch(threads: int | None) -> None:
    """Set the number of threads, and flush denormal numbers, which slow a CPU down several times."""
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
