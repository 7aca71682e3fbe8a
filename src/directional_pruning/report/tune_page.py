"""The page of a search for the sparsest network within a drop: one HTML file that needs nothing else."""

from html import escape
from pathlib import Path

from .captions import ABOUT
from .formatting import percent
from .html import document, pictures, section, table, table_row, write
from .plots.tuning import CUT, tuning_figure
from .tuned import Tuned, read_tuned


def write_tune(folder: Path) -> Path:
    """Write ``tune.html`` into the folder of a search, finished or under way; its path. Raises as ``read_tuned``."""
    tuned = read_tuned(folder)
    choice, remarks = tuned.choice(), tuned.remarks()
    lead = "".join(f"<p>{escape(text[:1].upper() + text[1:])}.</p>\n" for text in remarks)
    title = escape(choice[:1].upper() + choice[1:])
    header = f'<header>\n<p class="recipe">{escape(tuned.recipe)}</p>\n<h1>{title}</h1>'
    points = "; ".join(f"{percent(each.zeros, 2)} zeros {tuned.in_words(each.value)}" for each in tuned.tried)
    drawn = f"Validation {tuned.metric} against zeros of the pruned weights"
    cut = " What is much worse is cut off." * any(each.drop > CUT * tuned.limit > 0 for each in tuned.tried)
    caption = (
        f"{drawn}, of a network for each target; the dashed line is the drop that is allowed.{cut}",
        f"{drawn}: {points}; dense {tuned.in_words(tuned.dense)}.",
    )
    body = [
        f"{header}\n{lead}{ABOUT}\n</header>",
        section("", pictures({"tune": tuning_figure(tuned)}, {"tune": caption}, folder / "figures"), "pictures"),
        section("Targets", _table(tuned)),
    ]
    return write(folder / "tune.html", document(escape(f"{tuned.recipe}: tuning"), "\n".join(filter(None, body))))


def tune_cells(tuned: Tuned) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of the targets that were trained, the dense network first."""
    heads = ["target", "zeros of the pruned weights", f"validation {tuned.metric}", "drop", f"within {tuned.allowed}"]
    rows = [["dense", "0\N{NO-BREAK SPACE}%", tuned.in_words(tuned.dense), "", ""]] if tuned.tried else []
    for each in tuned.tried:
        deviation = "" if each.deviation is None else f" ± {tuned.in_words(each.deviation)}"
        verdict = "chosen" if each == tuned.chosen else "yes" if each.held else "no"
        value = tuned.in_words(each.value) + deviation
        rows.append([percent(each.target, 2), percent(each.zeros, 2), value, tuned.lost(each), verdict])
    return heads, rows


def _table(tuned: Tuned) -> str:
    heads, rows = tune_cells(tuned)
    return table("results", [table_row(*map(escape, row)) for row in rows], names=[escape(head) for head in heads])
