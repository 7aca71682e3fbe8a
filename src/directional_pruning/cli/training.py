"""What ``train`` does: start or resume runs, train them under progress bars, write and print the results."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NoReturn

from .app import one_line, stop
from .progress import Screen, training_progress
from .signals import deferred_signals, exit_code
from .tables import show_comparison, show_findings, train_table

if TYPE_CHECKING:
    from ..progress import Progress
    from ..runs import Start

__all__ = ["refuse", "start_training", "stoppable", "train_and_report"]


def start_training(
    recipe: str | None,
    values: Mapping[str, Any],
    several: Mapping[str, Sequence[Any]],
    *,
    paper_settings: bool,
    device: str,
    jobs: int,
    out: Path | None,
    resume: Path | None,
) -> "Start":
    """Prepare new runs, or those to resume; the user's mistakes end the command with one line."""
    from ..runs import resume_runs, start_runs, variants

    if resume and (recipe or values.keys() - {"data", "workers"} or several or paper_settings or out):
        also = "--data, --workers, --device, --jobs and --quiet"
        stop(f"--resume goes on with the run as it was configured: give nothing else but {also}", 2)
    if "tensorboard" in values and find_spec("tensorboard") is None:
        stop("TensorBoard events need its package: pip install 'directional-pruning[tensorboard]'", 2)
    try:
        if resume:
            start = resume_runs(resume, values, device, jobs=jobs)
        else:
            recipes = variants(recipe, values, several, paper_settings=paper_settings)
            start = start_runs(recipes, device, jobs=jobs, out=out)
    except (FileExistsError, ValueError) as error:
        refuse(error)
    if not start.processes.first:
        warnings.simplefilter("ignore")  # the first process trains the same network and warns
    return start


def refuse(error: FileExistsError | ValueError) -> NoReturn:
    """End the command with one line: a folder that exists, or a value that does not fit."""
    if not isinstance(error, FileExistsError):
        stop(str(error), 2)
    folder = Path(error.filename)
    resume_it = f", or go on with --resume {quote(str(folder))}" if folder.is_dir() else ""
    stop(f"{folder} exists; give another --out{resume_it}", 2)


@contextmanager
def stoppable(
    advice: str, *, first: bool = True
) -> "Iterator[tuple[Callable[[], bool], Callable[[Progress], Progress]]]":
    """Let a signal or a closed pipe stop training after a checkpoint, and end the command with one line and ``advice``.

    Yields a function that tells whether to stop, and one that makes a progress that survives a closed pipe. Only the
    ``first`` of several processes prints.
    """
    unprinted: list[OSError] = []

    def guarded(show: "Progress") -> "Progress":
        def progress(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
            try:
                show(task, done, total, record)
            except OSError as error:  # a pipe that was closed ends the training as Ctrl-C does
                unprinted.append(error)

        return progress

    try:
        with deferred_signals() as stopped:
            yield lambda: stopped() or bool(unprinted), guarded
    except KeyboardInterrupt:
        if unprinted:
            stop(f"{one_line(unprinted[0])}; {advice}", 2)
        stop(f"stopped; {advice}" if first else "", exit_code())
    except ChildProcessError as error:
        stop(f"{error}; {advice}" if first else "", 1)
    except BlockingIOError:  # another process trains the run
        raise
    except OSError as error:
        stop(f"{one_line(error)}; {advice}", 2)


def train_and_report(start: "Start", *, jobs: int, quiet: bool) -> None:
    """Train the runs under progress bars, write a page for each, and print the results."""
    from ..report import comparison_rows, write_comparison, write_report
    from ..runs import train_sweep

    folder, runs, processes = start.folder, start.runs, start.processes
    screen = Screen(quiet=quiet or not processes.first)
    advice = f"go on with: dirprune train --resume {quote(str(folder))}"
    bars = training_progress(screen, runs, start.recipe.epochs)
    with stoppable(advice, first=processes.first) as (stopped, guarded), bars as show:
        options = {"jobs": jobs, "progress": guarded(show), "processes": processes}
        diverged = train_sweep(runs, start.splits, stop=stopped, **options)
    if not processes.first:
        stop("", 0)  # a failure here would make torchrun end the first process while it writes
    pages = {run: write_report(run) for run in runs}
    # Folders not by Rich, which would read markup into their names.
    if len(runs) > 1:
        page = write_comparison([folder], folder / "comparison.html")
        show_comparison(screen, comparison_rows([folder]))
        print(folder if quiet else f"comparison: {page}")
    elif not diverged:
        screen.print(train_table(folder))
        (row,) = comparison_rows([folder])
        show_findings(screen, row)
        for flag in row.flags:
            screen.print(f"beside the paper: {flag}", markup=False, soft_wrap=True)
        print(folder if quiet else f"report: {pages[folder]}")
    if diverged:
        reasons = "; ".join(f"{error}; the run so far: {pages[run]}" for run, error in diverged.items())
        stop(f"training diverged, {reasons}; try a smaller --lr", 1)
