"""The progress of ``train``: bars on a terminal, else a line for each epoch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from ..progress import Progress

__all__ = ["Screen", "training_progress"]

_NAMES = {"sgd": "dense baseline", "grda": "sparse"}


class Screen(Console):
    """Rich's console; a pipe that was closed is an error to report, not a silent end."""

    def on_broken_pipe(self) -> None:
        """Raise the ``BrokenPipeError`` that is being handled."""
        raise


@contextmanager
def training_progress(
    screen: Console, runs: Sequence[Path], epochs: int, *, named: bool = False
) -> Iterator["Progress"]:
    """Show for each network loss, accuracy, zeros, the time left; and its run, if there are several, or ``named``."""
    names = {
        str(run / network): name if len(runs) == 1 and not named else f"{run.name} {name}"
        for run in runs
        for network, name in _NAMES.items()
        if not (run / network).is_symlink()  # a shared baseline is shown at another run
    }
    if screen.is_terminal:
        with _bars(screen, names, epochs) as show:
            yield show
    else:
        yield partial(_print_epoch, screen, names)


def _print_epoch(
    screen: Console,
    names: Mapping[str, str],
    task: str,
    done: int,
    total: int,
    record: Mapping[str, Any] | None = None,
) -> None:
    if record is None or task not in names:
        return
    text = f"{names[task]}: epoch {done} of {total}, loss {record['train_loss']:.4f}, "
    text += f"accuracy {_percent(record['validation_accuracy'])}, zeros {_percent(record['sparsity_all'])}"
    if done < total:
        text += f", {record['seconds'] / done * (total - done):.0f} s left"
    screen.print(text, markup=False, highlight=False, soft_wrap=True)
    screen.file.flush()


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


@contextmanager
def _bars(screen: Console, names: Mapping[str, str], epochs: int) -> Iterator["Progress"]:
    """A bar for each network."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} acc {task.fields[accuracy]} zeros {task.fields[zeros]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=screen) as bars:
        tasks = {
            task: bars.add_task(name, total=epochs, start=False, loss="-", accuracy="-", zeros="-")
            for task, name in names.items()
        }

        def show(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
            if record is None or task not in tasks:
                return
            bars.start_task(tasks[task])
            bars.update(
                tasks[task],
                completed=done,
                loss=f"{record['train_loss']:.4f}",
                accuracy=f"{record['validation_accuracy']:.1%}",
                zeros=f"{record['sparsity_all']:.1%}",
            )

        yield show
