"""Several runs of one recipe, over seeds and settings, one after the other or side by side."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import Splits, TextSplits
from ..progress import Progress, ignore_progress
from ..run_folder import NETWORKS, SUMMARY, SWEEP, sweep_runs, write_sweep
from ..training import SINGLE_PROCESS, NonFiniteError, Processes, TrainingStopped
from .config import create_run, load_run
from .locking import baseline_run, locked_runs
from .metrics import read_new_metrics
from .recipe import Recipe
from .run import train_both, train_network

__all__ = ["add_runs", "create_sweep", "prepare_torch", "train_networks", "train_sweep"]


def create_sweep(folder: Path, recipes: Sequence[Recipe], device: torch.device, **facts: int) -> None:
    """Make a folder with a run for each recipe; recipes that differ only in c, mu and target share a baseline.

    The folder of a shared baseline is a symbolic link to that of the first such run. Each run notes the ``facts``.

    Raises:
        FileExistsError: if the folder exists.
    """
    folder.mkdir(parents=True)
    try:
        add_runs(folder, recipes, device, **facts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # else the same command would find that it exists
        raise


def add_runs(folder: Path, recipes: Sequence[Recipe], device: torch.device, **facts: int) -> list[Path]:
    """Add a run for each recipe to the runs of a sweep that are there, with their dense baselines; the new runs."""
    present = sweep_runs(folder) if (folder / SWEEP).exists() else []
    baselines = {_baseline_key(load_run(run)[0]): run / "sgd" for run in reversed(present)}
    added: list[Path] = []
    for recipe in recipes:
        zeros = f"c{recipe.c}-mu{recipe.mu}" if recipe.target is None else f"target{recipe.target}"
        run = folder / f"seed{recipe.seed}-{zeros}"
        if run not in (*present, *added):
            shutil.rmtree(run, ignore_errors=True)  # of a process that was killed before it wrote the sweep
        create_run(run, recipe, device, **facts)
        baseline = baselines.setdefault(_baseline_key(recipe), run / "sgd")
        if baseline.parent == run:
            baseline.mkdir()
        else:
            (run / "sgd").symlink_to(os.path.relpath(baseline, run), target_is_directory=True)
        added.append(run)
    write_sweep(folder, recipes[0].name, [run.name for run in (*present, *added)])
    return added


def _baseline_key(recipe: Recipe) -> tuple[Any, ...]:
    """What two runs with one dense baseline have in common."""
    return tuple(replace(recipe, c=0.0, mu=0.5, target=None).hyperparameters().items())


def train_sweep(
    folders: Sequence[Path],
    splits: Splits | TextSplits,
    *,
    jobs: int = 1,
    progress: Progress = ignore_progress,
    processes: Processes = SINGLE_PROCESS,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> dict[Path, str]:
    """Train the runs in ``folders``, or continue where they were stopped; finished runs are skipped.

    Args:
        splits: the data of all runs.
        jobs: networks that are trained side by side on the one device, each in its own process.
        progress: called for each network under the name ``str(folder / network)``.
        processes: those that train every network together, instead of ``jobs``.
        stop: asks for an end after the next step, as in :func:`~directional_pruning.training.fit`.
        options: of ``train_network``.

    Returns:
        For each run that diverged, the error message; the other runs continue.

    Raises:
        BlockingIOError: if another process trains one of the runs.
        TrainingStopped: if ``stop`` returned True; the runs can be resumed.
    """
    unfinished = [folder for folder in folders if not (folder / SUMMARY).exists()]
    with locked_runs(unfinished, processes):
        # Baselines first: a run is finished when both of its networks are.
        tasks = [
            (folder, network) for network in NETWORKS for folder in unfinished if not (folder / network).is_symlink()
        ]
        diverged = _train_side_by_side(tasks, jobs, progress, stop, options) if jobs > 1 else {}
        for folder in unfinished:
            baseline = baseline_run(folder)
            if folder in diverged or baseline in diverged:
                diverged.setdefault(folder, diverged.get(baseline, ""))
                continue
            try:
                train_both(folder, progress=progress, splits=splits, processes=processes, stop=stop, **options)
            except NonFiniteError as error:
                diverged[folder] = str(error)
    return diverged


def train_networks(
    tasks: Sequence[tuple[Path, str]],
    splits: Splits | TextSplits,
    *,
    jobs: int = 1,
    progress: Progress = ignore_progress,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> dict[Path, str]:
    """Train networks of runs whose locks the caller holds, without a look at the test data; as :func:`train_sweep`.

    Args:
        tasks: folders of runs, and for each which of its networks.
    """
    if jobs > 1:
        return _train_side_by_side(tasks, jobs, progress, stop, options)
    diverged: dict[Path, str] = {}
    for folder, network in tasks:
        recipe, device = load_run(folder)
        try:
            train_network(folder, network, recipe, device, splits, progress=progress, stop=stop, **options)
        except NonFiniteError as error:
            diverged[folder] = str(error)
    return diverged


def _train_side_by_side(
    tasks: Sequence[tuple[Path, str]], jobs: int, progress: Progress, stop: Callable[[], bool], options: dict[str, Any]
) -> dict[Path, str]:
    """Train every network in one of ``jobs`` processes; return the runs that diverged."""
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    threads = max(1, torch.get_num_threads() // jobs)
    diverged: dict[Path, str] = {}
    with ProcessPoolExecutor(min(jobs, len(tasks) or 1), mp_context=spawn, initializer=_start_worker) as pool:
        _mask_interrupt(blocked=True)
        futures: dict[Future[None], Path] = {
            pool.submit(_train_in_worker, folder, network, threads, options): folder for folder, network in tasks
        }
        _mask_interrupt(blocked=False)
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
                if running and stop():
                    raise TrainingStopped
        except BrokenProcessPool as error:
            if stop():
                raise TrainingStopped from error  # the signal came to the workers too
            raise ChildProcessError("a training process was killed; the machine may lack memory for --jobs") from error
        except BaseException:
            _end_workers(pool)
            raise
    return diverged


def _start_worker() -> None:
    """Leave Ctrl-C to the parent process, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mask_interrupt(blocked=False)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _mask_interrupt(*, blocked: bool) -> None:
    """Hold Ctrl-C back, or let it through: a process that starts inherits this, and would print a traceback."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK, [signal.SIGINT])


def _train_in_worker(folder: Path, network: str, threads: int, options: dict[str, Any]) -> None:
    """Train one network; SIGTERM ends the process, after a checkpoint."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        recipe, device = load_run(folder)
        prepare_torch(min(recipe.threads or threads, threads))
        train_network(folder, network, recipe, device, recipe.splits(device), stop=lambda: bool(received), **options)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            os._exit(128 + signal.SIGTERM)


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """Let every worker write a checkpoint and end; a second Ctrl-C kills them."""
    pool.shutdown(wait=False, cancel_futures=True)
    workers = multiprocessing.active_children()
    try:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()


def prepare_torch(threads: int | None) -> None:
    """Set the number of threads, and flush denormal numbers, which slow a CPU down several times."""
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
