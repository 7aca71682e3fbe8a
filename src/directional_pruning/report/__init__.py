"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .compare import write_comparison
from .page import write_report
from .published import published_row
from .rows import COMPARED, Row, comparison_rows, in_words, shared_flags

__all__ = [
    "COMPARED",
    "Row",
    "comparison_rows",
    "in_words",
    "published_row",
    "shared_flags",
    "write_comparison",
    "write_report",
]
