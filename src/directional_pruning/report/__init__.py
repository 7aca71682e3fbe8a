"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .canvas import to_svg
from .figures import (
    accuracy_figure,
    histogram_figure,
    layers_figure,
    loss_figure,
    schedule_figure,
    sparsity_figure,
)
from .page import write_report
from .records import Run, read_run

__all__ = [
    # the page
    "write_report",
    # what a run folder says
    "Run",
    "read_run",
    # one picture at a time
    "accuracy_figure",
    "histogram_figure",
    "layers_figure",
    "loss_figure",
    "schedule_figure",
    "sparsity_figure",
    "to_svg",
]
