"""Loss-landscape tools for any network: mode connectivity, loss planes, the Hessian's spectrum, and the theory."""

from .curvature import Eigenspace, subspace_fraction, top_eigenpairs, top_eigenspace
from .curve import BezierCurve, Curve, CurveValues, PolygonalChain, evaluate_curve, straight_line
from .fit import fit_curve
from .hessian import hessian_operator, hessian_product
from .network import adapted
from .plane import Plane, PlaneValues, loss_plane
from .theory import complement_projection, directional_prune, directional_scores, finite_time_scores, path_threshold

__all__ = [
    # curves between two networks
    "BezierCurve",
    "Curve",
    "CurveValues",
    "PolygonalChain",
    "evaluate_curve",
    "fit_curve",
    "adapted",
    "straight_line",
    # the plane through three networks
    "Plane",
    "PlaneValues",
    "loss_plane",
    # curvature
    "Eigenspace",
    "hessian_operator",
    "hessian_product",
    "subspace_fraction",
    "top_eigenpairs",
    "top_eigenspace",
    # the theory
    "complement_projection",
    "directional_prune",
    "directional_scores",
    "finite_time_scores",
    "path_threshold",
]
