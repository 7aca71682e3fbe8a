"""The rivals of benchmarks/frontier.py do what their papers say, on cases computed by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

SPEC = importlib.util.spec_from_file_location("rivals", Path(__file__).parents[1] / "benchmarks" / "rivals.py")
rivals = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rivals)


def sgd(params, lr=0.1, **rest):
    return torch.optim.SGD(params, lr=lr, **rest)


def train(method, gradients):
    for gradient in gradients:
        for w in method.weights:
            w.grad = torch.as_tensor(gradient, dtype=torch.float32).expand_as(w).clone()
        method.step()


def test_the_wanted_share_of_zeros_rises_as_a_cube():
    assert [rivals.cubic(t, 0.2, 0.6, 0.8) for t in (0.1, 0.4, 0.9)] == [0.0, pytest.approx(0.7), 0.8]


def test_cuts_keep_what_their_formulas_say():
    v, g = torch.tensor([2.0, -2.0, 0.5]), torch.tensor(1.0)
    torch.testing.assert_close(rivals.hard_cut(v, g), torch.tensor([2.0, -2.0, 0.0]))
    torch.testing.assert_close(rivals.power_cut(1)(v, g), torch.tensor([1.0, -1.0, 0.0]))
    torch.testing.assert_close(rivals.power_cut(4)(v, g), torch.tensor([1.875, -1.875, 0.0]))
    torch.testing.assert_close(rivals.root_cut(3)(v, g), torch.tensor([7 ** (1 / 3), -(7 ** (1 / 3)), 0.0]))


def test_st3_rescales_each_row_by_the_inverse_of_the_part_that_survives():
    v = torch.tensor([[3.0, 1.0], [4.0, 4.0]])
    part = torch.tensor([[3 / 4], [1.0]])
    expected = torch.tensor([[1.0, 0.0], [2.0, 2.0]]) * 1.01 / (part + 0.01)
    torch.testing.assert_close(rivals.rescaled_soft_cut(v, torch.tensor(2.0)), expected, rtol=1e-5, atol=0)


def test_gradual_magnitude_pruning_keeps_the_largest_and_never_revives():
    w = Parameter(torch.arange(1.0, 11.0))
    method = rivals.GradualMagnitude([w], sgd([w]), 4, sparsity=0.5, start=0.0, end=0.5, every=1)
    train(method, [0.0] * 2)
    assert w.tolist() == [0, 0, 0, 0, 0, 6, 7, 8, 9, 10]
    train(method, [-100.0] * 2)
    assert (w == 0).tolist() == [True] * 5 + [False] * 5


def test_gradual_magnitude_pruning_by_layer_prunes_the_same_share_of_each():
    small, large = Parameter(torch.arange(1.0, 5.0)), Parameter(torch.arange(10.0, 18.0))
    method = rivals.GradualMagnitude(
        [small, large], sgd([small, large]), 1, sparsity=0.5, start=0.0, end=0.5, scope="layer"
    )
    train(method, [0.0])
    assert [(w == 0).sum().item() for w in (small, large)] == [2, 4]


def test_straight_through_moves_latent_weights_by_the_scaled_gradient_at_their_cut():
    w = Parameter(torch.tensor([2.0, 1.0]))
    method = rivals.StraightThrough(
        [w],
        sgd([w], weight_decay=0.5),
        10,
        cut=rivals.hard_cut,
        sparsity=0.5,
        start=0.0,
        end=0.1,
        every=1,
        gradient_of_zeros=0.5,
    )
    train(method, [0.0])  # latent: 2 - 0.1 * 0.5 * 2, 1 - 0.1 * 0.5 * 1
    torch.testing.assert_close(w.detach(), torch.tensor([1.9, 0.0]))
    train(method, [-2.0])  # the zero moves by half of the gradient, and by the decay of its latent weight
    torch.testing.assert_close(method.latent[0], torch.tensor([1.9 * 0.95 + 0.2, 0.95 * 0.95 + 0.1]))
    method.decay = "weights"  # the optimizer sees the zero: no decay of its latent weight
    before = method.latent[0].clone()
    train(method, [0.0])
    torch.testing.assert_close(method.latent[0], before - 0.05 * torch.tensor([before[0], 0.0]))


def test_soft_threshold_reparameterization_has_the_gradients_of_autograd():
    torch.manual_seed(0)
    w, target = Parameter(torch.randn(6)), torch.randn(6)
    v, s = w.detach().clone().requires_grad_(), torch.tensor(-1.0, requires_grad=True)
    loss = (v.sign() * torch.relu(v.abs() - torch.sigmoid(s)) * target).sum()
    loss.backward()
    method = rivals.SoftThresholdReparameterization([w], sgd, 1, first=-1.0)
    w.grad = target
    method.step()
    torch.testing.assert_close(method.latent[0].grad, v.grad)
    torch.testing.assert_close(method.s[0].grad, s.grad)
    g = torch.sigmoid(s - 0.1 * s.grad)
    cut = v - 0.1 * v.grad
    torch.testing.assert_close(w.detach(), (cut.sign() * torch.relu(cut.abs() - g)).detach())


def test_phases_of_acdc_take_turns_and_end_sparse():
    w = Parameter(torch.arange(1.0, 11.0))
    method = rivals.AcDc([w], sgd([w]), 10, sparsity=0.8, warm=0.1, phase=0.1, last=0.3)
    zeros = []
    for _ in range(10):
        train(method, [-1.0])
        zeros.append((w == 0).sum().item())
    assert zeros == [0, 8, 0, 8, 0, 8, 0, 8, 8, 8]


def test_rigl_replaces_the_smallest_weights_by_those_of_the_steepest_gradients():
    torch.manual_seed(0)
    w = Parameter(torch.randn(4, 5))
    method = rivals.RigL([w], sgd([w]), 10, sparsity=0.5, every=1, fraction=0.2, stop=1.0)
    mask = method.masks[0].clone()
    gradient = torch.where(mask, 0.0, torch.rand(4, 5))
    smallest = torch.where(mask, w.abs(), torch.inf).reshape(-1).topk(1, largest=False).indices
    train(method, [gradient])
    changed = (method.masks[0] != mask).reshape(-1).nonzero().reshape(-1)
    assert set(changed.tolist()) == {smallest.item(), gradient.argmax().item()}
    assert method.masks[0].sum() == 10
    assert (w != 0).sum() == 9  # the new weight starts at 0


def test_densities_of_layers_follow_the_rule_of_erdos_renyi_and_have_the_wanted_mean():
    shapes = [(4, 1, 3, 3), (64, 64, 3, 3), (10, 64)]
    densities = rivals.erdos_renyi_kernel(shapes, 0.04)
    sizes = torch.tensor([36.0, 36864.0, 640.0])
    assert (torch.tensor(densities) * sizes).sum() / sizes.sum() == pytest.approx(0.04)
    assert densities[0] == 1
    assert densities[2] / densities[1] == pytest.approx((74 / 640) / (134 / 36864))
