"""HTML pages of one run and of several, with their figures; needs matplotlib and never torch."""

from .comparison_page import write_comparison
from .findings import kinds, problems
from .plots.theory import write_theory
from .run_page import write_report
from .statistics import COMPARED, Row, comparison_rows, in_words, reached, shared_flags
from .tune_page import tune_cells, write_tune
from .tuned import Tuned, read_tuned

__all__ = [
    "COMPARED",
    "Row",
    "Tuned",
    "comparison_rows",
    "in_words",
    "problems",
    "read_tuned",
    "kinds",
    "reached",
    "shared_flags",
    "tune_cells",
    "write_comparison",
    "write_report",
    "write_theory",
    "write_tune",
]
