"""The verb that sets runs beside the paper and beside each other: ``compare``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .tables import show_comparison

__all__ = ["compare"]


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
    """Set runs beside the paper's results and beside each other: a table, and a page with the paper's figures.

    Runs of one recipe, setting and protocol are averaged over their seeds.

    Runs may be under way; what departs from the paper is said of each.
    """
    from ..report import comparison_rows, write_comparison

    show_comparison(Console(), comparison_rows(runs))
    inside = len(runs) == 1 and (runs[0] / "sweep.json").exists()
    print(write_comparison(runs, out or (runs[0] if inside else Path()) / "comparison.html"))
