"""The matplotlib style of all figures, and SVG output: the same figure gives the same bytes."""

import functools
import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import ParamSpec, TypeVar

import matplotlib.style
from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

# Blue and orange stay apart under every common colour blindness, and in grey.
INK, MUTED, GRID, GROUND = "#1f2429", "#5f6973", "#e4e7eb", "#ffffff"
COLOURS = {"sgd": "#1769aa", "grda": "#c75000"}
GREEN = "#3f9b64"  # readable on white and on black
AT_NIGHT = {
    INK: "#e6e9ec",
    MUTED: "#9aa4ae",
    GRID: "#30363d",
    GROUND: "#15181c",
    COLOURS["sgd"]: "#62b5f0",
    COLOURS["grda"]: "#ff9547",
    "#a8488a": "#e08ac6",
    "#00866a": "#3fc4a0",
    "#a07400": "#e0b84a",
}
SETTINGS = (COLOURS["grda"], "#a8488a", "#00866a", "#a07400", INK)  # one after the other, apart for the colour-blind
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, HEIGHT = 390.0, 275.0  # one unit is one CSS pixel, so texts keep their size on a desk and on a phone
DASHED = (0, (3, 1.6))

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: texts are measured alike everywhere
    "font.size": 11,
    "text.color": INK,
    **dict.fromkeys(("text.parse_math", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width"), 0.7),
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "directional-pruning",
    "path.simplify_threshold": 0.1,
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run ``draw`` under our style and nobody's ``matplotlibrc``; what the caller had set is back afterwards."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
            # Names may be in any script; the reader's fonts draw them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return wrapped


def new_figure(height: float = HEIGHT) -> Figure:
    """An empty figure, measured in pixels."""
    return Figure(figsize=(WIDTH / 72, height / 72))


@styled
def to_svg(figure: Figure, title: str = "") -> str:
    """The figure as one SVG document that asks nothing of the network and turns dark where the reader's screen is.

    >>> svg = to_svg(new_figure(), "nothing <yet>")
    >>> "<title>nothing &lt;yet&gt;</title>" in svg, "DOCTYPE" in svg, svg == to_svg(new_figure(), "nothing <yet>")
    (True, False, True)
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", file.getvalue())
    night = "".join(
        f'[style*="{kind}: {day}"]{{{kind}:{dark}!important}}'
        for day, dark in AT_NIGHT.items()
        for kind in ("fill", "stroke")
    )
    added = f"<title>{escape(title)}</title>" if title else ""
    added += f"<style>text{{font-family:{FONTS}!important}}@media (prefers-color-scheme:dark){{{night}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: match[0] + added, svg, count=1)
