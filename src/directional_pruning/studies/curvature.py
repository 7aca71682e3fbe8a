"""Do two networks differ in flat directions? The top of the Hessian's spectrum at one, and the way to the other."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from ..files import replacing
from ..landscape import adapted, hessian_operator, subspace_fraction, top_eigenpairs
from .networks import Pair

__all__ = ["curvature_verdict", "examine_curvature"]


def examine_curvature(
    folder: Path,
    pair: Pair,
    *,
    k: int = 10,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> str:
    """Find the k steepest directions at the first network of a pair, and the share of the way to the second in them.

    Writes ``curvature.npz``: eigenvalues (k,), residuals (k,), cosines (k,), those of the way with each eigenvector;
    share, the root of the sum of their squares; random, ``sqrt(k / d)``; along, the curvature along the way; distance;
    parameters, d; names, verdict, settings. Each product with the Hessian is kept until then, so that the same call
    after a stop goes on, with the same result. What was found for the same networks and settings is not computed again.

    Raises:
        ValueError: for k out of range, networks that do not fit the architecture or are one, or data that changes.
    """
    path, kept = folder / "curvature.npz", folder / "curvature" / "products.bin"
    settings = json.dumps({"networks": pair.fingerprint, "k": k, "seed": seed})
    with suppress(OSError, KeyError, ValueError, EOFError, TypeError, BadZipFile), open(path, "rb") as file:
        known = np.load(file, allow_pickle=False)
        if str(known["settings"]) == settings:
            return str(known["verdict"])
    states = [adapted(pair.model, state, name) for state, name in zip(pair.states, pair.names)]
    first, second = (torch.cat([state[n].flatten() for n, _ in pair.model.named_parameters()]) for state in states)
    way = second.double() - first.double()
    distance = float(way.norm())
    if not 0 < distance < math.inf:
        raise ValueError(f"invalid networks: {' and '.join(pair.names)} are {distance} apart (must be two, and finite)")
    pair.model.load_state_dict(states[0], strict=False)  # of tied entries the first stands for all
    kept.parent.mkdir(exist_ok=True)
    stage = "products with the Hessian"
    # Lanczos takes as many products as it needs: the end of the bar is a guess, until it is reached.
    operator = _Kept(
        hessian_operator(pair.model, pair.loss_fn, pair.train),
        kept,
        settings,
        lambda done: on_progress(stage, done, max(5 * k, done + 1)),
    )
    space = top_eigenpairs(operator, k, seed=seed)
    unit = (way / distance).cpu()
    along = float(unit @ torch.from_numpy(operator.matvec(unit.to(first.dtype).numpy())).double())
    on_progress(stage, operator.done, operator.done)
    found = {
        "eigenvalues": space.values.numpy(),
        "residuals": space.residuals.numpy(),
        "cosines": (space.vectors.double() @ unit).numpy(),
        "share": subspace_fraction(unit, space.vectors),
        "random": math.sqrt(k / len(unit)),
        "along": along,
        "distance": distance,
        "parameters": len(unit),
    }
    verdict = curvature_verdict(found["share"], found["random"], k, along, float(space.values[0]))
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, **found, names=pair.names, verdict=verdict, settings=settings)
    kept.unlink(missing_ok=True)
    return verdict


def curvature_verdict(share: float, random: float, k: int, along: float, largest: float) -> str:
    """In words, whether the way between two networks is flat: mostly, if 99 % of its square lie outside the space.

    >>> curvature_verdict(0.05, 0.01, 10, 0.02, 5.0).split("; ")[0]
    'share of the way in the top-10 eigenspace 0.05, of a random direction 0.01'
    >>> curvature_verdict(0.05, 0.01, 10, 0.02, 5.0).split(": ")[1]
    'mostly flat directions (99.75 % of the squared way is outside)'
    """
    flat = "mostly flat directions" if share**2 <= 0.01 else "partly steep directions"
    return (
        f"share of the way in the top-{k} eigenspace {share:.2g}, of a random direction {random:.2g}; "
        f"curvature along the way {along:.2g}, largest {largest:.2g}: "
        f"{flat} ({100 * (1 - share**2):.4g} % of the squared way is outside)"
    )


class _Kept(LinearOperator):
    """An operator whose products are kept in a file, in order: the same vectors again cost nothing."""

    def __init__(self, operator: LinearOperator, path: Path, settings: str, on_product: Callable[[int], None]) -> None:
        super().__init__(operator.dtype, operator.shape)
        self.operator, self.path, self.on_product, self.done = operator, path, on_product, 0
        self.head = settings.encode() + b"\n"
        with open(path, "ab+") as file:  # made if it is not there
            file.seek(0)
            if file.read(len(self.head)) != self.head:
                file.truncate(0)
                file.write(self.head)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        v = np.ascontiguousarray(x.ravel(), dtype=self.dtype)
        at = len(self.head) + 2 * self.done * v.nbytes
        with open(self.path, "rb+") as file:
            file.seek(at)
            record = file.read(2 * v.nbytes)
            if len(record) == 2 * v.nbytes and record[: v.nbytes] == v.tobytes():
                product = np.frombuffer(record[v.nbytes :], dtype=self.dtype)
            else:
                product = self.operator.matvec(v)
                file.truncate(at)  # a record that a kill cut short, or those of another machine's rounding
                file.seek(at)
                file.write(v.tobytes() + product.tobytes())
        self.done += 1
        self.on_product(self.done)
        return product
