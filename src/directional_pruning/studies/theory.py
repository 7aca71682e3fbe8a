"""The demonstration of the theory as a folder: both experiments, kept as they finish, and what they show in words."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..files import replacing
from .theory_experiments import digits_theory, quadratic_theory

__all__ = ["run_theory", "theory_verdict"]

Arrays = Mapping[str, Any]


def run_theory(
    folder: Path, seed: int = 0, on_progress: Callable[[str, float], None] = lambda stage, share: None
) -> list[str]:
    """Run both experiments of :mod:`~directional_pruning.training.theory`; what they show, a line each.

    Writes ``quadratics.npz`` and ``digits.npz``, each with its seed. What is there for the same seed is not computed
    again, so that the same call after a stop goes on with the experiment that was not finished.

    Raises:
        ValueError: for a negative seed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"invalid seed: {seed} (must be in 0..{2**32 - 1})")
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, run in (("quadratics", quadratic_theory), ("digits", digits_theory)):
        path = folder / f"{name}.npz"
        arrays: dict[str, Any] = _known(path, seed)
        if not arrays:
            arrays = {**run(seed, partial(on_progress, name)), "seed": np.array(seed)}
            with replacing(path) as beside, open(beside, "wb") as file:
                np.savez(file, **arrays)
        on_progress(name, 1.0)
        parts.append(arrays)
    return theory_verdict(*parts)


def theory_verdict(quadratics: Arrays, digits: Arrays) -> list[str]:
    """What the two experiments show, a line for each claim, whether it holds or not."""
    rates = "/".join(f"{rate:g}" for rate in quadratics["rates"])
    worst = [f"{x:.1e}" for x in quadratics["error"][:, -1]]
    noisy = [f"{x:.1e}" for x in quadratics["noisy_error"][:, -1]]
    holds = "follows" if max(quadratics["error"][:, -1]) < 1e-3 and quadratics["signs_held"] else "does NOT follow"
    slope = float(quadratics["slope"])
    near = "as" if abs(slope + 1) <= 0.05 else "NOT as"
    error, zeros = digits["error"][:, -1], digits["zeros"][-1]
    better = "explains" if error[0] < 0.25 * error[2] else "does NOT explain"
    sparsity, (grda, closed, size, sgd) = digits["sparsity"], digits["loss"]
    high = sparsity > 0.65
    wins = "keeps the loss below both" if (grda < np.fmin(closed, size))[high].all() else "does NOT keep the loss below"
    lines = [
        f"quadratics: gRDA {holds} the closed form with s(t): at time {quadratics['times'][-1]:g}, |difference| / "
        f"threshold {', '.join(worst)} at rates {rates}, under noise {', '.join(noisy)}",
        f"quadratics: the scores approach the flat ones {near} 1/t: slope {slope:.3f}",
        f"digits, exact Hessian, {zeros:.1%} zeros: s(t) {better} the way of gRDA: error {error[0]:.1%}, "
        f"of flat scores {error[1]:.1%}, of plain shrinking {error[2]:.1%}",
        f"digits, beyond 65 % zeros: gRDA {wins} (dense loss {sgd[0]:.3f}):",
    ]
    table = zip(sparsity, grda, closed, size, strict=True)
    return lines + [
        f"  {s:.0%} zeros: gRDA {a:.3f}, one-shot formula {b:.3f}, magnitude {c:.3f}" for s, a, b, c in table
    ]


def _known(path: Path, seed: int) -> dict[str, Any]:
    """The arrays of an earlier run with this seed; empty where there are none."""
    with suppress(OSError, KeyError, ValueError, EOFError, TypeError, BadZipFile), open(path, "rb") as file:
        content = np.load(file, allow_pickle=False)
        if int(content["seed"]) == seed:
            return {name: content[name] for name in content.files}
    return {}
