"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .compare import write_comparison
from .gather import comparison_rows
from .page import write_report
from .published import published_row

__all__ = ["comparison_rows", "published_row", "write_comparison", "write_report"]
