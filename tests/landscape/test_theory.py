"""Directional pruning as the paper defines it, and gRDA seen to follow it."""

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
from directional_pruning.report.plots.theory import write_theory
from directional_pruning.studies import run_theory, theory, theory_verdict
from directional_pruning.studies.theory_experiments import digits_theory, quadratic_theory


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


@pytest.fixture(scope="module")
def quadratic():
    steps = []
    arrays = quadratic_theory(0, lambda task, done, total: steps.append((task, total, done)), until=10)
    assert steps == sorted(steps)
    assert steps[-1] == ("quadratics", 2 * 11_100 + 10_000, 2 * 11_100 + 10_000)
    return arrays


def test_grda_follows_the_law_on_quadratics_at_every_rate(quadratic):
    assert quadratic["rates"].tolist() == [0.1, 0.01, 0.001]
    assert quadratic["signs_held"]
    assert (quadratic["error"][:, -1] < 1e-3).all()
    # The law is that of the limit lr -> 0; the difference is of the order of lr.
    assert_close(
        torch.tensor(quadratic["error"][:-1, -1] / quadratic["error"][1:, -1]),
        torch.tensor([10.0, 10]).double(),
        rtol=0.2,
        atol=0,
    )


def test_grda_follows_the_law_under_noise_the_closer_the_lower_the_rate(quadratic):
    error = quadratic["noisy_error"][:, -1]
    assert error[0] > error[1] > error[2]
    assert error[2] < 1e-3


def test_the_scores_approach_the_flat_ones_as_one_over_time(quadratic):
    assert quadratic["slope"] == pytest.approx(-1, rel=0.05)
    # The same of the law itself, over times at which h t is large.
    w, vectors, curvature = random(40), rows(12, 40, seed=1), torch.linspace(0.2, 1, 12).double()
    flat = directional_scores(w, complement_projection(vectors))
    times = np.geomspace(100, 10_000, 9)
    gap = [float((finite_time_scores(w, curvature, vectors, t, 0.6) - flat).norm()) for t in times]
    assert np.polyfit(np.log(times), np.log(gap), 1)[0] == pytest.approx(-1, rel=0.05)


@pytest.fixture(scope="module")
def network():
    progress = {}
    arrays = digits_theory(
        0, lambda task, done, total: progress.update({task: (done, total)}), hidden=6, epochs=40, until=40
    )
    assert list(progress) == [
        f"digits: {x}" for x in ("training with SGD", "exact Hessian", "small threshold", "six strengths")
    ]
    assert all(done == total for done, total in progress.values())
    return arrays


def test_grda_follows_the_law_on_a_network_closer_than_any_simpler_scores(network):
    assert network["eigenvalues"].shape == (64 * 6 + 6 + 6 * 10 + 10,)
    law, flat, plain = network["error"][:, -1]
    assert law < 0.5 * min(flat, plain)
    assert 0 < network["zeros"][-1] < 0.1


def test_the_three_methods_are_compared_at_the_same_zeros(network):
    sparsity, (grda, _, size, sgd) = network["sparsity"], network["loss"]
    assert (np.diff(sparsity) > 0).all()
    assert np.isfinite(network["loss"][[0, 2, 3]]).all()
    assert len(set(sgd)) == 1  # the dense baseline of all of them
    # With hardly a zero all are near the dense network; with many, none is.
    assert size[0] < 1.1 * sgd[0]
    assert min(grda[-1], size[-1]) > 1.5 * sgd[0]


def test_the_theory_study_is_saved_and_drawn(network, quadratic, tmp_path, monkeypatch):
    calls = []

    def stand_in(name, arrays):
        def run(seed, on_progress):
            calls.append((name, seed))
            on_progress(name, 1, 2)
            return arrays

        return run

    monkeypatch.setattr(theory, "quadratic_theory", stand_in("quadratics", quadratic))
    monkeypatch.setattr(theory, "digits_theory", stand_in("digits", network))
    seen = []
    lines = run_theory(tmp_path, 3, lambda *each: seen.append(each))
    assert lines == theory_verdict(quadratic, network)
    assert seen == [("quadratics", 1, 2), ("digits", 1, 2)]
    # Again: nothing is computed. Without one part, or with a broken one: that part.
    seen.clear()
    assert run_theory(tmp_path, 3, lambda *each: seen.append(each)) == lines
    assert seen == [("quadratics: saved earlier", 1, 1), ("digits: saved earlier", 1, 1)]
    (tmp_path / "digits.npz").write_bytes(b"PK\x03\x04 cut short")
    assert run_theory(tmp_path, 3) == lines
    assert calls == [("quadratics", 3), ("digits", 3), ("digits", 3)]
    run_theory(tmp_path, 4)
    assert calls[3:] == [("quadratics", 4), ("digits", 4)]

    pictures = write_theory(tmp_path)
    assert [path.stem for path in pictures] == ["law-quadratics", "law-digits", "path-digits"]
    first = [path.read_bytes() for path in pictures]
    assert all(b"</svg>" in svg for svg in first)
    assert [path.read_bytes() for path in write_theory(tmp_path)] == first
    assert not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(ValueError, match=r"^invalid seed: -1 \(must be in"):
        run_theory(tmp_path, -1)


def test_the_verdict_says_what_does_not_hold(network, quadratic):
    lines = theory_verdict(quadratic, network)
    assert "gRDA follows the closed form" in lines[0]
    assert "approach the flat ones as 1/t" in lines[1]
    assert "s(t) explains" in lines[2]
    worse = {**quadratic, "error": quadratic["error"] + 0.01, "slope": -0.9}
    lines = theory_verdict(worse, {**network, "error": network["error"][::-1]})
    assert "does NOT follow" in lines[0]
    assert "NOT as 1/t" in lines[1]
    assert "does NOT explain" in lines[2]


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
