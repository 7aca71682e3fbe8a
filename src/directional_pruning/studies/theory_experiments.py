"""The theory put to the test: gRDA beside the closed form, on quadratics and on a small network with its exact Hessian.

Both networks of a comparison, SGD and gRDA, start at the same weights and see the same batches. The closed form is
then taken at the weights of SGD, with the threshold of gRDA as its strength.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..data import digits
from ..landscape import (
    complement_projection,
    directional_prune,
    directional_scores,
    finite_time_scores,
    hessian_product,
    path_threshold,
)
from ..optim import GRDA

__all__ = ["digits_theory", "quadratic_theory"]

Arrays = dict[str, np.ndarray]
Progress = Callable[[float], None]

RATES = (0.1, 0.01, 0.001)
MU = 0.6
STRENGTHS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.3)


def quadratic_theory(seed: int = 0, on_progress: Progress = lambda _: None, *, until: float = 50) -> Arrays:
    """Follow gRDA on least squares with a known null space: 40 weights, 12 curvatures from 0.2 to 1, the rest flat.

    Once with the full gradient, once with batches of 8 of 64 samples, each at rates 0.1, 0.01 and 0.001; and at rate
    0.1 with the full gradient from time 100 to 1000.

    Args:
        seed: of the problem and of the batches.
        on_progress: called with the share that is done.
        until: the last time of the first two, the learning rates of all steps added up.

    Returns:
        ``rates`` (3,), ``times`` (m,); ``error`` and ``noisy_error`` (3, m), the largest ``|w_gRDA - w_dp(s(t))|`` of
        all weights over the threshold; ``signs_held``, whether no weight changed its sign; ``gap_times`` and ``gap``,
        (m,), the distance of the scores of gRDA, that is of ``sign(w) (w - w_gRDA) / g``, to the flat scores s, and
        ``slope``, that of log gap against log time.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, d, rank = 64, 40, 12
    draw = {"generator": generator, "dtype": torch.float64}
    left, _ = torch.linalg.qr(torch.randn(samples, rank + 1, **draw))
    right, _ = torch.linalg.qr(torch.randn(d, rank, **draw))
    curvature = torch.linspace(0.2, 1, rank, dtype=torch.float64)
    x = samples**0.5 * (left[:, :rank] * curvature.sqrt()) @ right.T  # so that X'X / n has these eigenvalues
    w = torch.randn(d, **draw)
    w = w.sign() * (1 + w.abs())
    residual = samples**0.5 * left[:, rank]  # orthogonal to the columns of X, so that w is the minimiser

    def gradient(at: Tensor, chosen: Tensor) -> Tensor:
        part = x[chosen]
        return part.T @ (part @ (at - w) - residual[chosen]) / len(chosen)

    def batches_of(size: int) -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(samples, generator=generator).split(size)

    times = np.geomspace(1, until, 18).round(1)
    gap_times = np.geomspace(100, 1000, 11).round()
    steps = 2 * sum(times[-1] / lr for lr in RATES) + gap_times[-1] / RATES[0]
    done, held = 0.0, True
    errors: list[list[float]] = []
    for size in (samples, 8):
        for lr in RATES:
            errors.append([])
            for t, g, sgd, grda in follow(w, gradient, batches_of(size), lr, 0.02, times):
                law = directional_prune(sgd, finite_time_scores(sgd, curvature, right.T, t, MU), g)
                errors[-1].append(float((grda - law).abs().max()) / g)
                held &= bool((grda.sign() == w.sign()).all())
                on_progress((done + t / lr) / steps)
            done += times[-1] / lr
    flat, gap = directional_scores(w, complement_projection(right.T)), []
    for t, g, sgd, grda in follow(w, gradient, batches_of(samples), RATES[0], 0.01, gap_times):
        gap.append(float((sgd.sign() * (sgd - grda) / g - flat).norm()))
        held &= bool((grda.sign() == w.sign()).all())
        on_progress((done + t / RATES[0]) / steps)
    return {
        "rates": np.array(RATES),
        "times": times,
        "error": np.array(errors[:3]),
        "noisy_error": np.array(errors[3:]),
        "signs_held": np.array(held),
        "gap_times": gap_times,
        "gap": np.array(gap),
        "slope": np.polyfit(np.log(gap_times), np.log(gap), 1)[0],
    }


def digits_theory(
    seed: int = 0,
    on_progress: Progress = lambda _: None,
    *,
    hidden: int = 20,
    epochs: int = 300,
    until: float = 400,
) -> Arrays:
    """Follow gRDA on the digits from where SGD has arrived: 64-20-10 units, tanh, 1,510 weights, float64.

    The network is trained for 300 epochs at rate 0.1 with batches of 64; its Hessian on all training data is computed
    exactly there. Then SGD and gRDA go on at the same rate: up to time 100 with a threshold that stays small, and up to
    time 400 with six strengths c, from one that prunes a few weights to one that prunes most.

    Args:
        seed: of the first weights and of the batches.
        on_progress: called with the share that is done.
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
    data = digits().train
    x, y = data.images.double().flatten(1), data.labels
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).double()
    loss_at = _loss_of(network)

    def gradient(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        w = w.detach().requires_grad_()
        return torch.autograd.grad(loss_at(w, *batch), w)[0]

    def batches(first_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in count(first_epoch):
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            for part in order.split(64):
                yield x[part], y[part]

    def full_loss(w: Tensor) -> float:
        return float(loss_at(w, x, y))

    lr = 0.1
    w = nn.utils.parameters_to_vector(network.parameters()).detach()
    steps = epochs * math.ceil(len(y) / 64)
    for n, batch in enumerate(islice(batches(0), steps)):
        w = w - lr * gradient(w, batch)
        on_progress(0.3 * n / steps)
    nn.utils.vector_to_parameters(w, network.parameters())
    product = hessian_product(network, F.cross_entropy, [(x, y)])
    rows = []
    for i, unit in enumerate(torch.eye(len(w), dtype=w.dtype)):
        rows.append(product(unit))
        on_progress(0.3 + 0.2 * i / len(w))
    hessian = torch.stack(rows)
    curvature, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    vectors = vectors.T

    times, thresholds, zeros, errors = np.geomspace(1, until / 4, 13).round(1), [], [], []
    for t, g, sgd, grda in follow(w, gradient, batches(epochs), lr, 0.001, times):
        flat = complement_projection(vectors[curvature * t >= MU])
        kinds = finite_time_scores(sgd, curvature, vectors, t, MU), directional_scores(sgd, flat), torch.ones_like(sgd)
        errors.append([float((grda - directional_prune(sgd, s, g)).norm() / (grda - sgd).norm()) for s in kinds])
        thresholds.append(g)
        zeros.append(float((grda == 0).double().mean()))
        on_progress(0.5 + 0.1 * t / times[-1])

    sparsity, losses = [], []
    for i, c in enumerate(STRENGTHS):
        for t, _, sgd, grda in follow(w, gradient, batches(epochs), lr, c, np.array([until])):
            pruned = int((grda == 0).sum())
            s = finite_time_scores(sgd, curvature, vectors, t, MU)
            # A weight reaches zero at lam = |w| / s, and never where its score is not positive.
            lam = float(torch.where(s > 0, sgd.abs() / s, math.inf).kthvalue(max(pruned, 1)).values)
            closed = full_loss(directional_prune(sgd, s, lam)) if lam < math.inf else math.nan
            by_size = torch.where(sgd.abs().argsort().argsort() < pruned, 0.0, sgd)
            sparsity.append(pruned / len(w))
            losses.append([full_loss(grda), closed, full_loss(by_size), full_loss(sgd)])
        on_progress(0.6 + 0.4 * (i + 1) / len(STRENGTHS))
    return {
        "eigenvalues": curvature.flip(0).numpy(),
        "times": times,
        "threshold": np.array(thresholds),
        "zeros": np.array(zeros),
        "error": np.array(errors).T,
        "sparsity": np.array(sparsity),
        "loss": np.array(losses).T,
    }


def _loss_of(network: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss as a function of flat weights, inputs and labels."""
    parameters = dict(network.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        pieces = zip(parameters.items(), w.split(sizes), strict=True)
        return F.cross_entropy(
            functional_call(network, {name: piece.view_as(p) for (name, p), piece in pieces}, (inputs,)), labels
        )

    return loss


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
