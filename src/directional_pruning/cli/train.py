"""Verbs that make a run: ``train``, ``recipes``, ``report``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .app import RUN, app, stop

if TYPE_CHECKING:
    from rich.table import Table

    from ..training import Recipe

__all__ = ["recipes", "report", "train"]

_NAMES = {"sgd": "dense twin", "grda": "sparse"}


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="See dirprune recipes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial weights and of the batches.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    c: Annotated[float | None, typer.Option(help="Strength of pruning: more gives more zeros; 0 is none.")] = None,
    mu: Annotated[
        float | None, typer.Option(help="Growth of pruning over time, in (0, 1]: more, later, sparser.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="New folder for the run [dim]\\[default: runs/RECIPE-seedN][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped, exactly where it was.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the run's folder.")] = False,
) -> None:
    """Train a dense network and its sparse twin, compare them and write a report.

    Both start from the same weights and see the same batches: one under the recipe's optimizer, one under the same
    optimizer made to prune as it goes.

    Options not given are those of the recipe. Ctrl-C is safe: go on with --resume.
    """
    import torch

    from ..report import write_report
    from ..training import NonFiniteError, create_run, load_run, pick_device, train_run

    given = {"seed": seed, "epochs": epochs, "lr": lr, "c": c, "mu": mu, "batch_size": batch_size}
    overrides = {name: value for name, value in given.items() if value is not None}
    if resume is not None:
        if recipe or overrides or out or device != "auto":
            stop("--resume goes on with the run as it was configured: give nothing else but --quiet", 2)
        folder, (chosen, _) = resume, load_run(resume)
    else:
        try:
            chosen, place = _derive(recipe, overrides), pick_device(device)
        except ValueError as error:
            stop(str(error), 2)
        folder = out or _free_folder(Path("runs") / f"{chosen.name}-seed{chosen.seed}")
        try:
            create_run(folder, chosen, place)
        except FileExistsError:
            stop(f"{folder} exists; give another --out, or go on with --resume {quote(str(folder))}", 2)
    # Denormal numbers, which a decaying network is full of, slow a CPU down several times.
    torch.set_flush_denormal(True)
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    screen = Console(quiet=quiet)
    try:
        with _progress(screen, chosen) as on_epoch:
            summary = train_run(folder, on_epoch=on_epoch)
    except NonFiniteError as error:
        stop(f"training diverged, {error}; the run so far: {write_report(folder)}; try a smaller --lr", 1)
    except KeyboardInterrupt:
        stop(f"stopped; go on with: dirprune train --resume {quote(str(folder))}", 130)
    page = write_report(folder)
    screen.print(_table(summary))
    # Not by Rich, which would read markup into a folder's name.
    print(folder if quiet else f"report: {page}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Show all settings of this one.")] = None,
) -> None:
    """List what can be trained, or show the settings of one recipe."""
    from ..training import RECIPES

    if name is not None:
        try:
            recipe = _derive(name, {})
        except ValueError as error:
            stop(str(error), 2)
        for key, value in recipe.hyperparameters().items():
            print(f"{key} = {value}")
        return
    for make in RECIPES.values():
        print(f"{make().name}: {make().summary}")


@app.command()
def report(run: RUN) -> None:
    """Draw the pictures and the page of a run anew, also of one under way."""
    from ..report import write_report

    print(write_report(run))


def _derive(name: str | None, overrides: dict[str, Any]) -> "Recipe":
    """The recipe of this name with the flags' values in place of its own; ValueError for a bad name or value."""
    from ..training import RECIPES

    if name not in RECIPES:
        problem = "which recipe?" if name is None else f"unknown recipe: {name}"
        raise ValueError(f"{problem} (there is: {', '.join(RECIPES)})")
    return replace(RECIPES[name](), **overrides)


def _free_folder(folder: Path) -> Path:
    """``folder``, or the first of folder-2, folder-3, ... that does not exist."""
    names = (folder if i == 1 else folder.with_name(f"{folder.name}-{i}") for i in count(1))
    return next(name for name in names if not name.exists())


@contextmanager
def _progress(screen: Console, recipe: "Recipe") -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """A bar for each network with loss, accuracy, zeros and the time that remains."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} acc {task.fields[accuracy]} zeros {task.fields[zeros]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bars:
        tasks = {
            network: bars.add_task(name, total=recipe.epochs, start=False, loss="-", accuracy="-", zeros="-")
            for network, name in _NAMES.items()
        }

        def on_epoch(network: str, record: dict[str, Any]) -> None:
            bars.start_task(tasks[network])
            bars.update(
                tasks[network],
                completed=record["epoch"],
                loss=f"{record['train_loss']:.4f}",
                accuracy=f"{record['validation_accuracy']:.1%}",
                zeros=f"{record['sparsity_all']:.1%}",
            )

        yield on_epoch


def _table(summary: dict[str, Any]) -> "Table":
    """Both networks side by side."""
    from rich.table import Table

    sgd, grda = summary["sgd"], summary["grda"]
    table = Table("", *_NAMES.values(), title=f"{summary['recipe']}: {summary['parameters']:,} parameters")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, key in (
        ("test accuracy", "test_accuracy"),
        ("zeros, of all parameters", "sparsity_all"),
        ("zeros, of prunable weights", "sparsity_prunable"),
    ):
        table.add_row(label, f"{sgd[key]:.2%}", f"{grda[key]:.2%}")
    table.add_row("test loss", f"{sgd['test_loss']:.4f}", f"{grda['test_loss']:.4f}")
    table.add_row("file, dense", f"{sgd['bytes'] / 1e3:,.1f} kB", f"{grda['bytes'] / 1e3:,.1f} kB")
    table.add_row("file, zipped", "", f"{grda['zipped_bytes'] / 1e3:,.1f} kB")
    table.add_row("file, sparse", "", f"{grda['sparse_bytes'] / 1e3:,.1f} kB")
    bits, least = grda["bits_per_nonzero"], grda["least_bits_per_nonzero"]
    table.add_row("bits per nonzero in it", "", f"{bits:.1f}")
    table.add_row("limit, zeros at random", "", f"{least:.1f}")
    table.add_row("seconds of training", f"{sgd['seconds']:.0f}", f"{grda['seconds']:.0f}")
    return table
