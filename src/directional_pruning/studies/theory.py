"""The theory study in a folder: both experiments, each saved when it finishes, and a verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import Progress, ignore_progress
from .store import load_arrays, save_arrays
from .theory_experiments import digits_theory, quadratic_theory

__all__ = ["run_theory", "theory_verdict"]

Arrays = Mapping[str, Any]


def run_theory(folder: Path, seed: int = 0, on_progress: Progress = ignore_progress) -> list[str]:
    """Run the experiments on quadratics and on a small network; return the lines of :func:`theory_verdict`.

    Writes ``quadratics.npz`` and ``digits.npz``, each with its seed. A saved experiment with the same seed is not run
    again, so that the same call after an interruption resumes with the unfinished one.

    Raises:
        ValueError: for a negative seed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"invalid seed: {seed} (must be in 0..{2**32 - 1})")
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name, run in (("quadratics", quadratic_theory), ("digits", digits_theory)):
        path = folder / f"{name}.npz"
        if arrays := load_arrays(path, seed=seed):
            on_progress(f"{name}: saved earlier", 1, 1)
        else:
            arrays = {**run(seed, on_progress), "seed": np.array(seed)}
            save_arrays(path, **arrays)
        results.append(arrays)
    return theory_verdict(*results)


def theory_verdict(quadratics: Arrays, digits: Arrays) -> list[str]:
    """Say for each claim of the theory whether it holds in the two experiments, in a line each."""
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
        f"digits, exact Hessian, {zeros:.1%} zeros: s(t) {better} the displacement of gRDA: error {error[0]:.1%}, "
        f"of flat scores {error[1]:.1%}, of plain shrinking {error[2]:.1%}",
        f"digits, beyond 65 % zeros: gRDA {wins} (dense loss {sgd[0]:.3f}):",
    ]
    table = zip(sparsity, grda, closed, size, strict=True)
    return lines + [
        f"  {s:.0%} zeros: gRDA {a:.3f}, one-shot formula {b:.3f}, magnitude {c:.3f}" for s, a, b, c in table
    ]
