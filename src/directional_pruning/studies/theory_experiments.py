"""gRDA compared with the closed form of its theory: on quadratics, and on a small network with its exact Hessian.

The two networks of a comparison, SGD and gRDA, start at the same weights and see the same batches. The closed form is
taken at the weights of SGD, with the threshold of gRDA as its strength.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..landscape import (
    complement_projection,
    directional_prune,
    directional_scores,
    finite_time_scores,
    path_threshold,
)
from ..optim import GRDA
from ..progress import Progress, ignore_progress
from .theory_problems import DigitsNetwork, LeastSquares

__all__ = ["digits_theory", "quadratic_theory"]

Arrays = dict[str, np.ndarray]
Spectrum = tuple[Tensor, Tensor]

MU = 0.6
RATES = (0.1, 0.01, 0.001)
STRENGTHS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.3)


def quadratic_theory(seed: int = 0, on_progress: Progress = ignore_progress, *, until: float = 50) -> Arrays:
    """Compare gRDA with the closed form on least squares: 40 weights, 12 curvatures from 0.2 to 1, the others flat.

    Once with the full gradient, once with batches of 8 of 64 samples, each at rates 0.1, 0.01 and 0.001; and at rate
    0.1 with the full gradient from time 100 to 1000.

    Args:
        seed: of the problem and of the batches.
        on_progress: called with the task "quadratics", its steps done and in total.
        until: the last time of the first two; a time is the sum of the learning rates of all steps so far.

    Returns:
        ``rates`` (3,), ``times`` (m,); ``error`` and ``noisy_error`` (3, m), the largest ``|w_gRDA - w_dp(s(t))|`` of
        all weights over the threshold; ``signs_held``, whether no weight changed its sign; ``gap_times`` and ``gap``,
        (m,), the distance of the scores of gRDA, that is of ``sign(w) (w - w_gRDA) / g``, to the flat scores s, and
        ``slope``, that of log gap against log time.
    """
    problem = LeastSquares(seed)
    w, vectors, samples = problem.minimiser, problem.vectors, problem.samples
    times = np.geomspace(1, until, 18).round(1)
    gap_times = np.geomspace(100, 1000, 11).round()
    steps = [round(times[-1] / lr) for lr in RATES]
    total, done = 2 * sum(steps) + round(gap_times[-1] / RATES[0]), 0
    signs_held = True
    errors: list[list[float]] = []
    for size in (samples, 8):
        for lr, steps_at_rate in zip(RATES, steps):
            errors.append([])
            for t, g, sgd, grda in follow(w, problem.gradient, problem.batches(size), lr, 0.02, times):
                law = directional_prune(sgd, finite_time_scores(sgd, problem.curvature, vectors, t, MU), g)
                errors[-1].append(float((grda - law).abs().max()) / g)
                signs_held &= bool((grda.sign() == w.sign()).all())
                on_progress("quadratics", done + round(t / lr), total)
            done += steps_at_rate
    flat, gap = directional_scores(w, complement_projection(vectors)), []
    for t, g, sgd, grda in follow(w, problem.gradient, problem.batches(samples), RATES[0], 0.01, gap_times):
        gap.append(float((sgd.sign() * (sgd - grda) / g - flat).norm()))
        signs_held &= bool((grda.sign() == w.sign()).all())
        on_progress("quadratics", done + round(t / RATES[0]), total)
    return {
        "rates": np.array(RATES),
        "times": times,
        "error": np.array(errors[:3]),
        "noisy_error": np.array(errors[3:]),
        "signs_held": np.array(signs_held),
        "gap_times": gap_times,
        "gap": np.array(gap),
        "slope": np.polyfit(np.log(gap_times), np.log(gap), 1)[0],
    }


def digits_theory(
    seed: int = 0,
    on_progress: Progress = ignore_progress,
    *,
    hidden: int = 20,
    epochs: int = 300,
    until: float = 400,
) -> Arrays:
    """Compare gRDA with the closed form on the digits, from a trained network: 64-20-10 units, tanh, float64.

    The network has 1,510 weights. It is trained for 300 epochs at rate 0.1 with batches of 64; then its Hessian on all
    training data is computed exactly. SGD and gRDA continue from there at the same rate: up to time 100 with a
    threshold that stays small, and up to time 400 with six strengths c, from few pruned weights to most.

    Args:
        seed: of the first weights and of the batches.
        on_progress: called with each of four tasks, its parts done and in total.
        hidden: units between inputs and outputs.
        epochs: of training before the Hessian is computed.
        until: the last time of the runs with six strengths; the first ends at a quarter of it.

    Returns:
        ``eigenvalues`` (d,), largest first. Of the first run: ``times`` (m,), and of gRDA ``threshold`` and ``zeros``,
        fractions, both (m,), and ``error`` (3, m), ``||w_gRDA - w_dp|| / ||w_gRDA - w_sgd||`` for three scores: s(t), s
        of the directions with ``h t < mu``, and 1 for every weight, which is plain shrinking. Of the six others:
        ``sparsity`` (6,), fractions, and ``loss`` (4, 6), the training loss of gRDA, of the closed form with s(t), of
        magnitude pruning and of SGD; the middle two prune the weights of SGD to the number of zeros of gRDA. NaN where
        the closed form cannot.
    """
    problem = DigitsNetwork(seed, hidden)
    w = problem.train(epochs, on_progress)
    curvature, vectors = problem.spectrum(w, on_progress)
    spectrum = curvature, vectors
    times = np.geomspace(1, until / 4, 13).round(1)
    first = _errors_of_scores(problem, w, spectrum, epochs, times, on_progress)
    others = _losses_at_equal_sparsity(problem, w, spectrum, epochs, until, on_progress)
    return {"eigenvalues": curvature.flip(0).numpy(), "times": times, **first, **others}


def _errors_of_scores(
    problem: DigitsNetwork, w: Tensor, spectrum: Spectrum, epoch: int, times: np.ndarray, on_progress: Progress
) -> Arrays:
    """The run with a small threshold: the error of the closed form with each of three scores."""
    curvature, vectors = spectrum
    thresholds, zeros, errors = [], [], []
    for t, g, sgd, grda in follow(w, problem.gradient, problem.batches(epoch), problem.rate, 0.001, times):
        flat = complement_projection(vectors[curvature * t >= MU])
        scores = finite_time_scores(sgd, curvature, vectors, t, MU), directional_scores(sgd, flat), torch.ones_like(sgd)
        errors.append([float((grda - directional_prune(sgd, s, g)).norm() / (grda - sgd).norm()) for s in scores])
        thresholds.append(g)
        zeros.append(float((grda == 0).double().mean()))
        on_progress("digits: small threshold", len(errors), len(times))
    return {"threshold": np.array(thresholds), "zeros": np.array(zeros), "error": np.array(errors).T}


def _losses_at_equal_sparsity(
    problem: DigitsNetwork, w: Tensor, spectrum: Spectrum, epoch: int, until: float, on_progress: Progress
) -> Arrays:
    """The runs with six strengths: the loss of gRDA, the closed form, magnitude pruning and SGD."""
    sparsity, losses = [], []
    for c in STRENGTHS:
        for t, _, sgd, grda in follow(w, problem.gradient, problem.batches(epoch), problem.rate, c, np.array([until])):
            pruned = int((grda == 0).sum())
            s = finite_time_scores(sgd, *spectrum, t, MU)
            # A weight reaches zero at lam = |w| / s, and never where its score is not positive.
            lam = float(torch.where(s > 0, sgd.abs() / s, math.inf).kthvalue(max(pruned, 1)).values)
            closed = problem.full_loss(directional_prune(sgd, s, lam)) if lam < math.inf else math.nan
            by_size = torch.where(sgd.abs().argsort().argsort() < pruned, 0.0, sgd)
            sparsity.append(pruned / len(w))
            losses.append([problem.full_loss(grda), closed, problem.full_loss(by_size), problem.full_loss(sgd)])
        on_progress("digits: six strengths", len(losses), len(STRENGTHS))
    return {"sparsity": np.array(sparsity), "loss": np.array(losses).T}


def follow(
    start: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterable[Any],
    lr: float,
    c: float,
    times: np.ndarray,
) -> Iterator[tuple[float, float, Tensor, Tensor]]:
    """Run SGD and gRDA from ``start`` on the same batches; yield time, threshold and both weights at ``times``."""
    sgd, grda = start.clone(), nn.Parameter(start.clone())
    optimizer = GRDA([grda], lr=lr, c=c, mu=MU)
    stops = {round(float(t) / lr) for t in times}
    for n, batch in enumerate(batches, start=1):
        sgd = sgd - lr * gradient(sgd, batch)
        grda.grad = gradient(grda.detach(), batch)
        optimizer.step()
        if n in stops:
            yield n * lr, path_threshold([lr] * n, c, MU), sgd, grda.detach().clone()
        if n >= max(stops):
            return
