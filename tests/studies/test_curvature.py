"""The study curvature and its command."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from directional_pruning.files import CorruptFileError
from directional_pruning.landscape import hessian_product, subspace_fraction, top_eigenspace
from directional_pruning.report import write_report
from directional_pruning.studies import examine_curvature

pytestmark = pytest.mark.slow


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_curvature_of_a_pair_is_that_of_its_first_network(new_pair):
    folder, pair = new_pair()
    words = examine_curvature(folder, pair, k=4)
    result = read(folder / "curvature.npz")
    assert str(result["verdict"]) == words
    pair.model.load_state_dict(pair.states[0])
    values, vectors = top_eigenspace(pair.model, F.cross_entropy, pair.train, 4)
    flat = [torch.cat([state[name].flatten() for name, _ in pair.model.named_parameters()]) for state in pair.states]
    displacement = (flat[1] - flat[0]).double()
    assert result["parameters"] == len(displacement) == 69
    np.testing.assert_allclose(result["eigenvalues"], values, rtol=1e-4)
    assert float(result["share"]) == pytest.approx(subspace_fraction(displacement, vectors.double()), rel=1e-3)
    assert float(result["share"]) == pytest.approx(math.sqrt((result["cosines"] ** 2).sum()), rel=1e-5)
    assert float(result["random"]) == pytest.approx(math.sqrt(4 / 69))
    curved = hessian_product(pair.model, F.cross_entropy, pair.train)(displacement.float()).double()
    assert float(result["along"]) == pytest.approx(
        float(displacement @ curved / (displacement @ displacement)), rel=1e-3
    )
    assert result["residuals"].max() < 1e-4
    assert not (folder / "curvature" / "products.bin").exists()


def test_stopped_and_called_again_it_resumes_with_the_same_result(new_pair):
    (folder, pair), seen = new_pair(), []

    def stop_at_five(task, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine_curvature(folder, pair, k=4, on_progress=stop_at_five)
    saved = folder / "curvature" / "products.bin"
    five = saved.stat().st_size
    with open(saved, "ab") as file:
        file.write(b"an incomplete record")
    evaluations = 0

    def counted(output, targets):
        nonlocal evaluations
        evaluations += 1
        return F.cross_entropy(output, targets)

    words = examine_curvature(folder, replace(pair, loss_fn=counted), k=4, on_progress=lambda *each: seen.append(each))
    products = seen[-1][1]
    assert seen[-1][1] == seen[-1][2]
    assert five > 5 * 2 * 69 * 4
    # Three batches a product, and two passes to see that the data stays the same; five products were saved.
    assert evaluations == 3 * (products - 5) + 6
    once = read(folder / "curvature.npz")
    # The same result is not computed again; for another k it is.
    assert examine_curvature(folder, replace(pair, loss_fn=None), k=4) == words
    (folder / "curvature.npz").unlink()
    examine_curvature(folder, pair, k=4)
    again = read(folder / "curvature.npz")
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert examine_curvature(folder, pair, k=3) != words


def test_the_command_draws_the_curvature_and_says_what_it_is(checkpoints, dirprune):
    between = ("--between", "a.safetensors", "b.safetensors", "--model", "mine:model", "--data", "mine:data")

    code, out, err = dirprune("curvature", *between, "--out", "pair", "--k", "4")
    assert (code, err) == (0, "")
    assert "fraction of the displacement in the top-4 subspace" in out
    assert "report: pair/report.html" in out
    page = (checkpoints / "pair" / "report.html").read_text()
    assert "Flat directions?" in page
    assert (checkpoints / "pair" / "figures" / "curvature.svg").exists()
    code, _, err = dirprune("curvature", "pair", "--k", "70")
    assert (code, err) == (2, "dirprune: invalid k: 70 (must be in 1..69)\n")
    code, _, err = dirprune("curvature", *between)
    assert (code, err.count("\n")) == (2, 1)
    (checkpoints / "pair" / "curvature.npz").write_bytes(b"nothing")
    with pytest.raises(CorruptFileError, match=r"curvature.npz is not a readable file"):
        write_report(checkpoints / "pair")


def test_a_network_and_itself_have_no_displacement(new_pair):
    with pytest.raises(ValueError, match=r"^invalid networks: .* are 0\.0 apart"):
        examine_curvature(*new_pair("same", ("a.safetensors", "a.safetensors")), k=4)
