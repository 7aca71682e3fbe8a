"""The study theory: gRDA compared with the closed form."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from directional_pruning.report import write_theory
from directional_pruning.studies import run_theory, theory, theory_verdict
from directional_pruning.studies.theory_experiments import digits_theory, quadratic_theory

pytestmark = pytest.mark.slow


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
