"""Directional pruning as the paper defines it."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from directional_pruning import GRDA
from directional_pruning.landscape import (
    complement_projection,
    directional_prune,
    directional_scores,
    finite_time_scores,
    path_threshold,
)

pytestmark = pytest.mark.slow


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(k, d, seed=0):
    """Orthonormal rows."""
    return torch.linalg.qr(random(d, k, seed=seed))[0].T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_the_definition_and_sum_to_the_squared_norm(dtype):
    w, vectors = random(30).to(dtype), rows(7, 30, seed=1).to(dtype)
    projection = torch.eye(30, dtype=dtype) - vectors.T @ vectors
    scores = directional_scores(w, projection)
    assert scores.dtype == dtype
    assert_close(scores, w.sign() * (projection @ w.sign()))
    assert_close(scores.sum(), (projection @ w.sign()).square().sum())
    assert_close(directional_scores(w, complement_projection(vectors)), scores)


@given(
    w=st.floats(-3, 3).filter(lambda w: abs(w) > 1e-6),
    s=st.floats(-2, 2),
    lam=st.floats(0, 3),
)
def test_the_closed_form_is_the_minimiser(w, s, lam):
    def objective(x):
        return (w - x) ** 2 / 2 + lam * s * abs(x)

    minimiser = float(directional_prune(torch.tensor([w]).double(), torch.tensor([s]).double(), lam))
    # On the side of w: with a negative score the objective has no least value across the sign.
    candidates = np.append(np.sign(w) * np.linspace(0, 10, 2001), minimiser)
    assert objective(minimiser) <= min(objective(candidates)) + 1e-12


def test_pruned_weights_are_plus_zero_and_the_others_move_in_flat_directions_only():
    w, vectors = random(30), rows(7, 30, seed=1)
    scores = directional_scores(w, complement_projection(vectors))
    pruned = directional_prune(w, scores, 5.0)
    assert 0 < int((pruned == 0).sum()) < 30
    assert not torch.signbit(pruned[pruned == 0]).any()
    small = 0.9 * float((w.abs() / scores.abs()).min())
    assert_close(vectors @ (directional_prune(w, scores, small) - w), torch.zeros(7).double(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("mu", [0.4, 0.51, 0.75, 1.0])
def test_the_law_is_kummers_function_of_the_spectrum(mu):
    eigenvalues = torch.tensor([1e-9, 1e-3, 0.3, 5.0, 40.0, 1e3, 1e8, -0.2], dtype=torch.float64)
    w, vectors, t = random(20), rows(8, 20, seed=1), 7.0
    with mpmath.workdps(40):
        kummer = [float(mpmath.hyp1f1(1, 1 + mpmath.mpf(mu), -mpmath.mpf(float(h)) * t)) for h in eigenvalues]
    signs = w.sign()
    expected = signs * (
        vectors.T @ (torch.tensor(kummer, dtype=torch.float64) * (vectors @ signs))
        + complement_projection(vectors)(signs)
    )
    assert_close(finite_time_scores(w, eigenvalues, vectors, t, mu), expected, rtol=1e-12, atol=1e-12)


def test_the_law_begins_at_one_and_ends_at_the_flat_scores():
    w, vectors = random(20), rows(6, 20, seed=1)
    curvature = torch.linspace(0.5, 2, 6).double()
    assert_close(finite_time_scores(w, curvature, vectors, 0, 0.6), torch.ones(20).double())
    flat = directional_scores(w, complement_projection(vectors))
    assert_close(finite_time_scores(w, curvature, vectors, 1e9, 0.6), flat, rtol=0, atol=1e-8)
    assert_close(finite_time_scores(w, 0 * curvature, vectors, 1e9, 0.6), torch.ones(20).double())


def test_the_law_approaches_the_flat_scores_as_one_over_time():
    # Over times at which h t is large.
    w, vectors, curvature = random(40), rows(12, 40, seed=1), torch.linspace(0.2, 1, 12).double()
    flat = directional_scores(w, complement_projection(vectors))
    times = np.geomspace(100, 10_000, 9)
    gap = [float((finite_time_scores(w, curvature, vectors, t, 0.6) - flat).norm()) for t in times]
    assert np.polyfit(np.log(times), np.log(gap), 1)[0] == pytest.approx(-1, rel=0.05)


def test_the_law_takes_other_types_and_no_eigenvectors():
    w = random(4).float()
    assert finite_time_scores(w, torch.ones(1).double(), rows(1, 4), 2.0, 0.6).dtype == torch.float32
    assert finite_time_scores(w, torch.ones(0), torch.ones(0, 4), 2.0, 0.6).tolist() == [1.0] * 4


@pytest.mark.parametrize("mu", [0.4, 0.51, 0.7])
def test_the_threshold_is_that_of_the_optimizer(mu):
    rates = [0.1] * 30 + [0.05, 0.0, 0.01] + [0.001] * 20
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = GRDA([w], lr=0.1, c=0.02, mu=mu)
    for lr in rates:
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.zeros_like(w)
        optimizer.step()
    assert path_threshold(rates, 0.02, mu) == pytest.approx(float(optimizer.state[w]["threshold"]), rel=1e-12)
    assert path_threshold(torch.tensor(rates), 0.02, mu) == pytest.approx(path_threshold(rates, 0.02, mu), rel=1e-6)
    assert path_threshold([], 0.02, mu) == 0.0


BAD = {
    "scores of a matrix": (
        lambda: directional_scores(torch.ones(2, 2), torch.eye(2)),
        "invalid weights: torch.float32",
    ),
    "scores of integers": (
        lambda: directional_scores(torch.ones(2).int(), torch.eye(2)),
        "invalid weights: torch.int32",
    ),
    "a projection of another size": (lambda: directional_scores(torch.ones(2), lambda x: x[:1]), "invalid flat_proj"),
    "scores of another size": (lambda: directional_prune(torch.ones(2), torch.ones(3), 1.0), "invalid scores: shape"),
    "a negative lam": (lambda: directional_prune(torch.ones(2), torch.ones(2), -1.0), "invalid lam: -1.0"),
    "no lam": (lambda: directional_prune(torch.ones(2), torch.ones(2), float("nan")), "invalid lam: nan"),
    "columns for rows": (
        lambda: finite_time_scores(torch.ones(3), torch.ones(1), torch.ones(3, 1), 1.0, 0.6),
        "invalid eigenvectors",
    ),
    "a negative time": (
        lambda: finite_time_scores(torch.ones(1), torch.ones(1), torch.ones(1, 1), -1.0, 0.6),
        "invalid time: -1.0",
    ),
    "mu of the law": (
        lambda: finite_time_scores(torch.ones(1), torch.ones(1), torch.ones(1, 1), 1.0, 0.0),
        "invalid mu: 0.0",
    ),
    "a saddle left far behind": (
        lambda: finite_time_scores(torch.ones(1), -torch.ones(1), torch.ones(1, 1), 1e4, 0.6),
        "invalid eigenvalues: -1.0 at time 10000.0",
    ),
    "a negative rate": (lambda: path_threshold([0.1, -0.1], 0.1, 0.6), "invalid lrs: -0.1"),
    "a negative c": (lambda: path_threshold([0.1], -0.1, 0.6), "invalid c: -0.1"),
    "a large mu": (lambda: path_threshold([0.1], 0.1, 1.5), "invalid mu: 1.5"),
    "rates in a table": (lambda: path_threshold(torch.ones(2, 2), 0.1, 0.6), "invalid lrs: shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_with_its_value(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)
