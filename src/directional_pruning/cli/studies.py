"""Verbs that study finished networks: ``curve``, ``plane``, ``curvature``, ``theory``."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import RUN, app, stop
from .progress import Screen
from .signals import exit_code
from .tables import show_problems

if TYPE_CHECKING:
    from ..progress import Progress
    from ..studies import Pair

__all__ = ["curvature", "curve", "plane", "theory"]

# Two networks: of a run, or two checkpoints of other code.
_RUN_OR_NONE = Annotated[Path | None, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
_BETWEEN = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Instead of a run: two checkpoints (.safetensors or torch's), one network."),
]
_MODEL = Annotated[str | None, typer.Option(help="With --between: package.module:function -> the network.")]
_DATA = Annotated[
    str | None, typer.Option(help='With --between: package.module:function -> {"train": batches, "test": batches}.')
]
_LOSS = Annotated[str, typer.Option(help="With --between: the mean loss of (outputs, targets).")]
_OUT = Annotated[Path | None, typer.Option(help="With --between: folder for the results.")]


@app.command()
def curve(
    run: _RUN_OR_NONE = None,
    between: _BETWEEN = None,
    model: _MODEL = None,
    data: _DATA = None,
    loss: _LOSS = "torch.nn.functional:cross_entropy",
    out: _OUT = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data to train the bend.")] = 30,
    lr: Annotated[float, typer.Option(help="Learning rate of the bend at the start.")] = 0.05,
    points: Annotated[int, typer.Option(help="Points at which the curve is measured.")] = 61,
    tolerance: Annotated[float, typer.Option(help="Rise of the loss above both ends that is still one valley.")] = 0.01,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in mixed precision with bfloat16.")] = False,
) -> None:
    """Are two networks in one valley? Train a curve between them, measure and draw the loss on it, print a verdict.

    The networks are the dense baseline and the sparse network of a run, or any two checkpoints of one architecture.

    Ctrl-C is safe: the same command resumes.
    """
    from ..studies import examine_curve

    settings = {"epochs": epochs, "lr": lr, "points": points, "tolerance": tolerance, "bf16": bf16}
    _examine(partial(examine_curve, **settings), "curve", run, between, model, data, loss, out)


@app.command()
def plane(
    run: RUN,
    size: Annotated[int, typer.Option(help="Points along each side of the grid.")] = 29,
    margin: Annotated[float, typer.Option(help="Border around the networks, as a fraction of their extent.")] = 0.2,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in mixed precision with bfloat16.")] = False,
) -> None:
    """Measure and draw the loss on the plane through both networks and the bend of their curve.

    Needs the curve first. Ctrl-C is safe: the same command resumes.
    """
    from ..studies import examine_plane

    _examine(partial(examine_plane, size=size, margin=margin, bf16=bf16), "plane", run)


@app.command()
def curvature(
    run: _RUN_OR_NONE = None,
    between: _BETWEEN = None,
    model: _MODEL = None,
    data: _DATA = None,
    loss: _LOSS = "torch.nn.functional:cross_entropy",
    out: _OUT = None,
    k: Annotated[int, typer.Option("--k", help="How many of the steepest directions.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the first vector of Lanczos; the result does not depend on it.")] = 0,
) -> None:
    """Do two networks differ in flat directions? Compare their displacement with the steepest directions at the first.

    The networks are the dense baseline and the sparse network of a run, or any two checkpoints of one architecture.

    Ctrl-C is safe: the same command resumes.
    """
    from ..studies import examine_curvature

    _examine(partial(examine_curvature, k=k, seed=seed), "curvature", run, between, model, data, loss, out)


@app.command()
def theory(
    seed: Annotated[int, typer.Option(help="Of the problems, the first weights and the batches.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/theory"),
) -> None:
    """Compare gRDA with its theory and with the one-shot formula: on quadratics, then on a small digits network.

    About a minute. Ctrl-C is safe: the same command resumes with the unfinished part.
    """
    import torch

    from ..files import locked
    from ..report import write_theory
    from ..run_folder import STUDY_LOCK
    from ..studies import run_theory

    torch.set_num_threads(1)  # the problems are so small that threads would only wait for each other
    out.mkdir(parents=True, exist_ok=True)
    with _study() as on_progress, locked(out, STUDY_LOCK):
        lines = run_theory(out, seed, on_progress)
    pictures = write_theory(out)
    print(*lines, sep="\n")
    print("pictures:", *pictures)


def _examine(
    examine: Callable[..., str],
    verb: str,
    run: Path | None,
    between: tuple[Path, Path] | None = None,
    model: str | None = None,
    data: str | None = None,
    loss: str = "",
    out: Path | None = None,
) -> None:
    """Load two networks, study them, print the verdict and write the report."""
    import torch

    from ..files import locked
    from ..report import write_report
    from ..run_folder import STUDY_LOCK

    with _study() as on_progress:
        folder, pair = _load(verb, run, between, model, data, loss, out)
        torch.set_num_threads(pair.threads or torch.get_num_threads())
        with locked(folder, STUDY_LOCK):
            verdict = examine(folder, pair, on_progress=on_progress)
    page = write_report(folder)
    print(verdict)
    show_problems(folder)
    print(f"report: {page}")


def _load(
    verb: str,
    run: Path | None,
    between: tuple[Path, Path] | None,
    model: str | None,
    data: str | None,
    loss: str,
    out: Path | None,
) -> tuple[Path, "Pair"]:
    """The folder for the results, and the two networks: of a run, or two checkpoints of other code."""
    from ..studies import create_pair, load_pair

    if between is None:
        if run is None or model or data or out:
            stop("give a RUN, or --between A B with --model, --data and --out", 2)
        return run, load_pair(run)
    if run or not (model and data and out):
        stop("--between A B needs --model, --data and --out, and no RUN", 2)
    return out, create_pair(out, *between, model=model, data=data, loss=loss, verb=verb)


@contextmanager
def _study() -> "Iterator[Progress]":
    """Show a progress bar for each task of a study; an expected error ends the command in one line."""
    import torch
    from rich.progress import Progress as Bars

    # Denormal numbers, frequent in a decaying network, slow a CPU down several times.
    torch.set_flush_denormal(True)
    bars = Bars(console=Screen())
    shown: dict[str, Any] = {}

    def on_progress(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
        bars.start()  # not earlier: bars without a task print an empty line
        if task not in shown:
            shown[task] = bars.add_task(task)
        bars.update(shown[task], completed=done, total=total)

    try:
        try:
            yield on_progress
        finally:
            if shown:
                bars.stop()
    except (ValueError, RuntimeError) as error:
        stop(str(error), 2)
    except ArithmeticError as error:
        stop(str(error), 1)
    except KeyboardInterrupt:
        stop("stopped; the same command resumes", exit_code())
