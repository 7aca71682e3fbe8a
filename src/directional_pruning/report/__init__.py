"""Pictures and the HTML page of a run, from plain records; needs matplotlib and never torch."""

from .page import write_report

__all__ = ["write_report"]
