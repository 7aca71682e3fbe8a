"""Verbs that write pages about runs: ``report`` and ``compare``."""

from pathlib import Path
from typing import Annotated

import typer

from .app import RUN, app
from .progress import Screen
from .tables import show_comparison

__all__ = ["compare", "report"]


@app.command()
def report(run: RUN) -> None:
    """Draw the figures and the page of a run again, also of an unfinished one; or the page of a folder of tune."""
    from ..report import write_report, write_tune
    from ..run_folder import TUNE

    print(write_tune(run) if (run / TUNE).exists() else write_report(run))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs, or folders that have runs below them, at any depth."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The page [dim]\\[default: comparison.html here, or in the one sweep given][/dim]."
        ),
    ] = None,
) -> None:
    """Compare runs with the paper's results and with each other: a table, and a page with the paper's figures.

    Runs of one recipe, setting and protocol are averaged over their seeds.

    Unfinished runs are allowed; differences from the paper's protocol are listed.
    """
    from ..report import comparison_rows, write_comparison
    from ..run_folder import SWEEP

    show_comparison(Screen(), comparison_rows(runs))
    inside = len(runs) == 1 and (runs[0] / SWEEP).exists()
    print(f"comparison: {write_comparison(runs, out or (runs[0] if inside else Path()) / 'comparison.html')}")
