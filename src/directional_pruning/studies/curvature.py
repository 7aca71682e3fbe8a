"""Do two networks differ in flat directions? The top of the Hessian's spectrum at one, and their displacement."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from ..landscape import Eigenspace, adapted, hessian_operator, subspace_fraction, top_eigenpairs
from ..progress import Progress, ignore_progress
from .networks import Pair
from .store import SavedProducts, load_arrays, save_arrays

__all__ = ["curvature_verdict", "examine_curvature"]


def examine_curvature(
    folder: Path, pair: Pair, *, k: int = 10, seed: int = 0, on_progress: Progress = ignore_progress
) -> str:
    """Find the k steepest directions at the first network of a pair; compare the displacement to the second with them.

    Writes ``curvature.npz``: eigenvalues (k,); residuals (k,); cosines (k,) of the displacement with each eigenvector;
    share, the fraction of the displacement in their subspace; random, ``sqrt(k / d)``; along, the Rayleigh quotient
    along the displacement; distance, its norm; parameters, d; names, verdict, settings. Each product with the Hessian
    is saved until then, so that an interrupted study resumes with the same result. A result for the same networks and
    settings is not computed again.

    Raises:
        ValueError: for k out of range, networks that do not fit the architecture or are equal, or data that changes.
    """
    path = folder / "curvature.npz"
    settings = json.dumps({"networks": pair.fingerprint, "k": k, "seed": seed})
    if (earlier := load_arrays(path, settings=settings)) and "verdict" in earlier:
        return str(earlier["verdict"])
    displacement = _load_first(pair)
    distance = float(displacement.norm())
    if not 0 < distance < math.inf:
        raise ValueError(f"invalid networks: {' and '.join(pair.names)} are {distance} apart (must be two, and finite)")
    unit = (displacement / distance).cpu()
    products = folder / "curvature" / "products.bin"
    space, quotient = _spectrum(pair, unit, products, settings, k, seed, on_progress)
    fraction, random = subspace_fraction(unit, space.vectors), math.sqrt(k / len(unit))
    verdict = curvature_verdict(fraction, random, k, quotient, float(space.values[0]))
    save_arrays(
        path,
        eigenvalues=space.values.numpy(),
        residuals=space.residuals.numpy(),
        cosines=(space.vectors.double() @ unit).numpy(),
        share=fraction,
        random=random,
        along=quotient,
        distance=distance,
        parameters=len(unit),
        names=pair.names,
        verdict=verdict,
        settings=settings,
    )
    products.unlink(missing_ok=True)
    return verdict


def curvature_verdict(fraction: float, random: float, k: int, quotient: float, largest: float) -> str:
    """Say whether two networks differ in flat directions: at least 99 % of the squared displacement is outside.

    Args:
        fraction: of the displacement, in the subspace of the top k eigenvectors.
        random: the same of a random direction.
        quotient: Rayleigh quotient of the Hessian along the displacement.
        largest: eigenvalue.

    >>> curvature_verdict(0.05, 0.01, 10, 0.02, 5.0).split("; ")[0]
    'fraction of the displacement in the top-10 subspace 0.05, of a random direction 0.01'
    >>> curvature_verdict(0.05, 0.01, 10, 0.02, 5.0).split(": ")[1]
    'mostly flat directions (99.75 % of the squared displacement is outside)'
    """
    flat = "mostly flat directions" if fraction**2 <= 0.01 else "partly steep directions"
    return (
        f"fraction of the displacement in the top-{k} subspace {fraction:.2g}, of a random direction {random:.2g}; "
        f"Rayleigh quotient along the displacement {quotient:.2g}, largest eigenvalue {largest:.2g}: "
        f"{flat} ({100 * (1 - fraction**2):.4g} % of the squared displacement is outside)"
    )


def _load_first(pair: Pair) -> Tensor:
    """Load the first network into the model; the displacement to the second, flat, in float64."""
    states = [adapted(pair.model, state, name) for state, name in zip(pair.states, pair.names)]
    names = [name for name, _ in pair.model.named_parameters()]
    first, second = (torch.cat([state[name].flatten() for name in names]) for state in states)
    pair.model.load_state_dict(states[0], strict=False)  # of tied entries there is only the first
    return second.double() - first.double()


def _spectrum(
    pair: Pair, unit: Tensor, products: Path, settings: str, k: int, seed: int, on_progress: Progress
) -> tuple[Eigenspace, float]:
    """The top k eigenpairs of the Hessian, and its Rayleigh quotient along a unit vector."""
    task = "products with the Hessian"
    products.parent.mkdir(exist_ok=True)
    # Lanczos takes as many products as it needs: the total is an estimate until the end.
    operator = SavedProducts(
        hessian_operator(pair.model, pair.loss_fn, pair.train),
        products,
        settings,
        lambda done: on_progress(task, done, max(5 * k, done + 1)),
    )
    space = top_eigenpairs(operator, k, seed=seed)
    product = operator.matvec(unit.numpy().astype(operator.dtype))
    quotient = float(unit @ torch.from_numpy(product).double())
    on_progress(task, operator.products, operator.products)
    return space, quotient
