"""The verb ``tune``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import flags
from .app import app, stop
from .progress import Screen, training_progress
from .tables import show_tuned
from .training import refuse, stoppable

if TYPE_CHECKING:
    from ..progress import Progress
    from ..runs import Tuning

__all__ = ["tune"]


@app.command()
def tune(
    recipe: flags.RecipeName = None,
    drop: Annotated[
        float | None,
        flags.pruning(help="The most that may be lost to the dense network: points of accuracy, or units of the loss."),
    ] = None,
    metric: Annotated[
        str | None, flags.pruning(help="accuracy or loss, of the validation data [dim]\\[default: accuracy][/dim].")
    ] = None,
    trainings: Annotated[
        int | None, flags.pruning(help="The most targets that are trained [dim]\\[default: 6][/dim].")
    ] = None,
    seed: flags.Seeds = None,
    epochs: flags.Epochs = None,
    lr: flags.Rate = None,
    batch_size: flags.BatchSize = None,
    momentum: flags.Momentum = None,
    weight_decay: flags.WeightDecay = None,
    label_smoothing: flags.LabelSmoothing = None,
    model: flags.Model = None,
    data: flags.Data = None,
    num_classes: flags.Classes = None,
    samples: flags.Samples = None,
    workers: flags.Workers = None,
    device: flags.Device = "auto",
    precision: flags.Precision = None,
    compile: flags.Compile = None,  # noqa: A002 (the flag is called so)
    accumulate: flags.Accumulate = None,
    jobs: flags.Jobs = 1,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the runs [dim]\\[default: runs/RECIPE-tune, -2, ...][/dim].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with a search that was stopped; nothing trains twice.")
    ] = None,
    quiet: flags.Quiet = False,
) -> None:
    """Find the sparsest network whose validation accuracy is within a drop of the dense network's.

    Trains the dense network once, then networks with different shares of zeros (train --target), each chosen by
    bisection on the share of weights that is left. For example, at most half a point below the dense network:

    dirprune tune digits --drop 0.5 --epochs 30

    Choices are made on validation data, which are part of the training data; the test data are used once, for the
    chosen network and its dense twin. With several --seeds a target is judged by the mean. More --jobs train several
    targets at a time: fewer rounds, but a coarser answer from the same number of trainings.

    Ctrl-C and SIGTERM are safe: go on with --resume. The page is tune.html in the folder.
    """
    learning = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "momentum": momentum, "model": model}
    learning |= {"weight_decay": weight_decay, "label_smoothing": label_smoothing, "workers": workers}
    images = {"data": data and str(data.resolve()), "num_classes": num_classes, "samples": samples}
    machine = {"precision": precision, "compile": compile, "accumulate": accumulate}
    values = {name: value for name, value in (learning | images | machine).items() if value is not None}
    search = {"drop": drop, "metric": metric, "trainings": trainings, "seeds": seed}
    search = {name: value for name, value in search.items() if value is not None}
    tuning = _prepare(recipe, values, search, device, out, resume)
    _train_and_report(tuning, jobs, quiet)


def _prepare(
    recipe: str | None,
    values: dict[str, Any],
    search: dict[str, Any],
    device: str,
    out: Path | None,
    resume: Path | None,
) -> "Tuning":
    from ..runs import resume_tuning, start_tuning, variants

    if resume and (recipe or values.keys() - {"data", "workers"} or search or out):
        also = "--data, --workers, --device, --jobs and --quiet"
        stop(f"--resume goes on with the search as it was configured: give nothing else but {also}", 2)
    if not resume and "drop" not in search:
        stop("how much may be lost? Give --drop, such as --drop 0.5: points of accuracy, or units of the loss", 2)
    try:
        if resume:
            return resume_tuning(resume, values, device)
        (chosen,) = variants(recipe, values)
        return start_tuning(chosen, device=device, out=out, **search)
    except (FileExistsError, ValueError) as error:
        refuse(error)


def _train_and_report(tuning: "Tuning", jobs: int, quiet: bool) -> None:
    from ..report import read_tuned, write_tune
    from ..runs import train_tuning

    screen, folder = Screen(quiet=quiet), tuning.folder
    with stoppable(f"go on with: dirprune tune --resume {quote(str(folder))}") as (stopped, guarded):

        @contextmanager
        def show(runs: Sequence[Path]) -> "Iterator[Progress]":
            with training_progress(screen, runs, tuning.recipe.epochs, named=True) as progress:
                yield guarded(progress)

        try:
            train_tuning(tuning, jobs=jobs, show=show, stop=stopped)
        except ValueError as error:
            stop(str(error), 1)
    page = write_tune(folder)
    show_tuned(screen, read_tuned(folder))
    print(folder if quiet else f"tuning: {page}")
