"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .compare import write_comparison
from .page import write_report
from .published import published_row
from .rows import comparison_rows

__all__ = ["comparison_rows", "published_row", "write_comparison", "write_report"]
