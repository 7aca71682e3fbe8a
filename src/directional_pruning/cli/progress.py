"""The bars that ``train`` shows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

__all__ = ["training_progress"]

_NAMES = {"sgd": "dense twin", "grda": "sparse"}


@contextmanager
def training_progress(
    screen: Console, runs: Sequence[Path], epochs: int
) -> Iterator[Callable[[Path, str, dict[str, Any]], None]]:
    """A bar for each network with loss, accuracy, zeros and the time that remains."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} acc {task.fields[accuracy]} zeros {task.fields[zeros]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bars:
        tasks = {
            (run, network): bars.add_task(
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

        def on_epoch(run: Path, network: str, record: dict[str, Any]) -> None:
            if (task := tasks.get((run, network))) is None:  # a twin that another run shows
                return
            bars.start_task(task)
            bars.update(
                task,
                completed=record["epoch"],
                loss=f"{record['train_loss']:.4f}",
                accuracy=f"{record['validation_accuracy']:.1%}",
                zeros=f"{record['sparsity_all']:.1%}",
            )

        yield on_epoch
