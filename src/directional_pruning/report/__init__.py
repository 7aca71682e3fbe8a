"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .page import write_report
from .published import published_row

__all__ = ["published_row", "write_report"]
