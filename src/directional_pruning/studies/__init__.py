"""Studies of finished networks, each resumable: curve, plane, curvature and theory."""

from .curvature import curvature_verdict, examine_curvature
from .curve import curve_verdict, examine_curve
from .networks import Pair, create_pair, load_pair
from .plane import examine_plane
from .theory import run_theory, theory_verdict

__all__ = [
    "Pair",
    "create_pair",
    "curvature_verdict",
    "curve_verdict",
    "examine_curvature",
    "examine_curve",
    "examine_plane",
    "load_pair",
    "run_theory",
    "theory_verdict",
]
