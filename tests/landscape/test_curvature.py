"""Products with the Hessian, its top eigenspace, and the fraction of a direction inside it."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian
from torch.testing import assert_close

from directional_pruning.landscape import (
    hessian_operator,
    hessian_product,
    subspace_fraction,
    top_eigenpairs,
    top_eigenspace,
)


def network(dtype=torch.float64):
    """Convolution, batch norm with its statistics, dropout: what must be in evaluation mode."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4)
    model = nn.Sequential(*layers).to(dtype)
    for _ in range(3):
        model(2 + torch.randn(16, 1, 4, 4, dtype=dtype))  # running averages away from 0 and 1
    return model


def data(dtype=torch.float64):
    """Two batches of different size."""
    made = torch.Generator().manual_seed(1)
    x = torch.randn(25, 1, 4, 4, generator=made, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 4, (25,), generator=made)
    return [(x[:16], y[:16]), (x[16:], y[16:])]


def flat_loss(model, batches, loss_fn=F.cross_entropy):
    """The mean loss over all samples as a function of flat weights, and those weights."""
    names, parameters = zip(*model.named_parameters())
    x, y = (torch.cat(part) for part in zip(*batches))

    def loss(w):
        pieces = w.split([p.numel() for p in parameters])
        state = {name: piece.view_as(p) for name, p, piece in zip(names, parameters, pieces)}
        return loss_fn(functional_call(model, state, (x,)), y)

    return loss, nn.utils.parameters_to_vector(parameters).detach()


def dense_hessian(model, batches, loss_fn=F.cross_entropy):
    model.eval()
    loss, w = flat_loss(model, batches, loss_fn)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", DeprecationWarning)  # inside torch
        actual = hessian(loss)(w)
    model.train()
    return actual


def dense_gauss_newton(model, batches):
    """Sum of J^T (diag(p) - p p^T) J / n over the samples, for cross-entropy."""
    model.eval()
    _, w = flat_loss(model, batches)
    x = torch.cat([x for x, _ in batches])
    jacobian = torch.func.jacrev(flat_loss(model, [(x, x)], lambda z, _: z)[0])(w)
    p = flat_loss(model, [(x, x)], lambda z, _: z)[0](w).softmax(1).detach()
    model.train()
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nci,ncd,ndj->ij", jacobian, curved, jacobian) / len(x)


def test_products_equal_the_dense_hessian():
    model, batches = network(), data()
    expected = dense_hessian(model, batches)
    actual = hessian_operator(model, F.cross_entropy, batches) @ np.eye(len(expected))
    assert actual.dtype == np.float64
    assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_products_in_float32_are_those_of_float64_to_its_precision():
    model, v = network(), torch.randn(88, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = hessian_product(model, F.cross_entropy, data())(v)
    actual = hessian_product(model.float(), F.cross_entropy, data(torch.float32))(v.float())
    assert actual.dtype == torch.float32
    assert_close(actual.double(), exact, rtol=0, atol=1e-5 * float(exact.norm()))


def test_gauss_newton_products_equal_the_dense_matrix():
    model, batches = network(), data()
    expected = dense_gauss_newton(model, batches)
    actual = hessian_operator(model, F.cross_entropy, batches, gauss_newton=True) @ np.eye(len(expected))
    assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-10)
    assert np.linalg.eigvalsh(actual)[0] > -1e-12
    assert (expected - dense_hessian(model, batches)).abs().max() > 1e-2  # they are two matrices


def test_a_linear_network_has_one_curvature():
    torch.manual_seed(0)
    model, batches = nn.Linear(5, 3).double(), [(torch.randn(20, 5).double(), torch.randint(0, 3, (20,)))]
    full, gauss = (hessian_operator(model, F.cross_entropy, batches, gauss_newton=g) @ np.eye(18) for g in (0, 1))
    np.testing.assert_allclose(full, gauss, atol=1e-14)


def test_attention_has_second_derivatives():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).double()
    batches = [(torch.randn(6, 3, 8).double(), torch.randint(0, 3, (6,)))]
    product = hessian_product(model, F.cross_entropy, batches)
    model.eval()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss, w = flat_loss(model, batches)
        v = torch.randn(len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = torch.func.vjp(torch.func.grad(loss), w)[1](v)[0]
    assert_close(product(v), expected, rtol=0, atol=1e-10)
    jvp = hessian_product(model, F.cross_entropy, batches, gauss_newton=True)(v)
    assert float(v @ jvp) > 0


def test_tied_unused_and_linear_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.unused, self.shift = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.second(self.first(x)).sum(1) + self.shift

    torch.manual_seed(0)
    model, batches = Odd().double(), [(torch.randn(7, 3).double(), torch.zeros(7).double())]
    for loss_fn in (lambda z, _: z.mean(), F.mse_loss):
        expected = dense_hessian(model, batches, loss_fn)
        assert expected.shape == (12, 12)
        actual = hessian_operator(model, loss_fn, batches) @ np.eye(12)
        assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-12)


def test_inputs_by_name_and_frozen_parameters():
    class Named(nn.Linear):
        def forward(self, a, b):
            return super().forward(a * b)

    torch.manual_seed(0)
    model, a, y = Named(4, 3).double(), torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    model.bias.requires_grad_(False)
    actual = hessian_operator(model, F.cross_entropy, [({"a": a, "b": a}, y)]) @ np.eye(15)
    assert_close(torch.from_numpy(actual), dense_hessian(nn_linear_like(model), [(a * a, y)]), rtol=0, atol=1e-12)
    assert not model.bias.requires_grad


def nn_linear_like(model):
    plain = nn.Linear(model.in_features, model.out_features).double()
    plain.load_state_dict(model.state_dict())
    return plain


def test_the_model_is_left_as_it_was():
    model, batches = network(), data()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    product = hessian_product(model, F.cross_entropy, batches)
    v = torch.ones(88, dtype=torch.float64)
    first = product(v)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    # It is the Hessian at the weights of then.
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
        model[1].running_mean.add_(1)
    assert torch.equal(product(v), first)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_top_ten_eigenvalues_equal_those_of_the_dense_hessian(seed):
    model, batches = network(), data()
    expected, basis = torch.linalg.eigh(dense_hessian(model, batches))
    space = top_eigenspace(model, F.cross_entropy, batches, 10, seed=seed)
    values, vectors = space
    assert_close(values, expected[-10:].flip(0), rtol=0, atol=1e-10)
    assert_close(vectors @ vectors.T, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-10)
    # The same space, whatever the signs.
    assert torch.linalg.svdvals(vectors @ basis[:, -10:]).min() > 1 - 1e-10
    assert space.residuals.shape == (10,)
    assert space.residuals.max() < 1e-8
    assert space.products < 88  # fewer than the dense matrix takes


def test_the_largest_are_by_value_and_the_same_seed_gives_the_same_bits():
    from scipy.sparse.linalg import aslinearoperator

    matrix = np.diag(np.concatenate([np.linspace(1, 2, 30), [-50.0, 7.0, 3.0]]))
    space, again = (top_eigenpairs(aslinearoperator(matrix), 2, seed=3) for _ in range(2))
    assert_close(space.values, torch.tensor([7.0, 3.0]).double())
    assert torch.equal(space.vectors, again.vectors)


@pytest.mark.parametrize("k", [1, 43, 44, 88])
def test_any_number_of_eigenpairs(k):
    model, batches = network(), data()
    values, vectors = top_eigenspace(model, F.cross_entropy, batches, k)
    assert vectors.shape == (k, 88)
    expected = torch.linalg.eigvalsh(dense_hessian(model, batches)).flip(0)[:k]
    assert_close(values, expected, rtol=0, atol=1e-10)


def test_eigenpairs_in_float32():
    model = network(torch.float32)
    values, vectors = top_eigenspace(model, F.cross_entropy, data(torch.float32), 5)
    assert values.dtype == vectors.dtype == torch.float32
    exact, _ = top_eigenspace(model.double(), F.cross_entropy, data(), 5)
    assert_close(values.double(), exact, rtol=1e-4, atol=1e-5)


def test_the_squared_fraction_of_random_directions_averages_k_over_d():
    k, d, draws = 10, 400, 2000
    made = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(d, k, generator=made, dtype=torch.float64))[0].T
    directions = torch.randn(draws, d, generator=made, dtype=torch.float64)
    squares = torch.tensor([subspace_fraction(x, vectors) for x in directions]).square()
    # The squared fraction of a random direction is Beta(k/2, (d-k)/2); five standard errors.
    error = math.sqrt(2 * k * (d - k) / (d**2 * (d + 2)) / draws)
    assert abs(float(squares.mean()) - k / d) < 5 * error


def test_fractions_of_directions_inside_outside_and_between():
    vectors = torch.eye(6)[:2]
    assert subspace_fraction(torch.tensor([1.0, -2, 0, 0, 0, 0]), vectors) == pytest.approx(1)
    assert subspace_fraction(torch.tensor([0.0, 0, 5, 1, 0, 0]), vectors) == 0
    # Not summed once for each eigenvector.
    assert subspace_fraction(torch.ones(6, dtype=torch.float64), vectors) == pytest.approx(math.sqrt(2 / 6))


class Flipped:
    """A data set that augments: other data at each reading."""

    def __init__(self):
        self.made = torch.Generator().manual_seed(0)

    def __iter__(self):
        for x, y in data():
            yield x + 0.1 * torch.randn(x.shape, generator=self.made), y


def test_what_is_wrong_is_named():
    model, batches = network(), data()
    product = hessian_product(model, F.cross_entropy, batches)
    cases = [
        (lambda: hessian_product(model, F.cross_entropy, iter(batches)), TypeError, "invalid batches: a list_iterator"),
        (lambda: hessian_product(model, F.cross_entropy, []), ValueError, "invalid batches: none"),
        (lambda: hessian_product(model, F.cross_entropy, Flipped()), ValueError, "invalid batches: mean loss"),
        (lambda: product(torch.ones(3)), ValueError, r"invalid vector: shape \(3,\) \(must be \(88,\)\)"),
        (lambda: top_eigenspace(model, F.cross_entropy, batches, 0), ValueError, r"invalid k: 0 \(must be in 1..88\)"),
        (lambda: top_eigenspace(model, F.cross_entropy, batches, 89), ValueError, "invalid k: 89"),
        (lambda: subspace_fraction(torch.zeros(3), torch.eye(3)[:1]), ValueError, "invalid direction: of norm 0.0"),
        (lambda: subspace_fraction(torch.ones(2), torch.eye(3)[:1]), ValueError, "invalid direction: shape"),
        (lambda: subspace_fraction(torch.ones(3), torch.ones(2, 3)), ValueError, "invalid vectors: rows off orthonorm"),
        (
            lambda: hessian_product(network(torch.bfloat16), F.cross_entropy, batches),
            ValueError,
            "invalid model: param",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=f"^{message}") as caught:
            call()
        assert "\n" not in str(caught.value)
    with torch.no_grad():
        model[-1].bias[0] = math.nan
    with pytest.raises(ValueError, match="invalid model: its loss on the batches is nan"):
        hessian_product(model, F.cross_entropy, batches)
