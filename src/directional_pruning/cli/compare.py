"""The verb that sets runs beside the paper and beside each other: ``compare``."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app

__all__ = ["compare"]


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of runs, or of sweeps: those with runs one level down."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("comparison.html"),
) -> None:
    """Set runs beside the paper's results and beside each other: a table, and a page with the paper's figures.

    Runs of one recipe, setting and protocol are averaged over their seeds.

    Runs may be under way; what departs from the paper is said of each.
    """
    from rich.table import Table
    from rich.text import Text

    from ..report import comparison_rows, write_comparison
    from ..report.rows import COMPARED, in_words, shared_flags

    for recipe, part in groupby(comparison_rows(runs), key=lambda row: row.recipe):
        rows = list(part)
        shared = shared_flags(rows)
        flags = [f"all: {flag}" for flag in shared]
        table = Table("", "seeds", *(f"{heading}, %" for heading, _ in COMPARED), title=Text(recipe))
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            seeds = f"{row.seeds}" if row.seeds == row.runs else f"{row.seeds} of {row.runs}"
            table.add_row(Text(row.label), seeds, *(in_words(row, name) for _, name in COMPARED), end_section=True)
            flags += [f"{row.label}: {flag}" for flag in row.flags if flag not in shared]
        Console().print(table)
        for flag in flags:
            print(flag)
    print(write_comparison(runs, out))
