"""The progress bars of ``train``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from ..progress import Progress

__all__ = ["training_progress"]

_NAMES = {"sgd": "dense baseline", "grda": "sparse"}


@contextmanager
def training_progress(screen: Console, runs: Sequence[Path], epochs: int) -> Iterator["Progress"]:
    """A bar for each network with loss, accuracy, zeros and the remaining time."""
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
            str(run / network): bars.add_task(
                name if len(runs) == 1 else f"{run.name} {name}",
                total=epochs,
                start=False,
                loss="-",
                accuracy="-",
                zeros="-",
            )
            for run in runs
            for network, name in _NAMES.items()
            if not (run / network).is_symlink()
        }

        def show(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
            if record is None or task not in tasks:  # a shared baseline has its bar at another run
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
