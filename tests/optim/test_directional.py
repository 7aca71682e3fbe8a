"""Directional against GRDA, against the optimizers it wraps, and its own promises."""

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Muon, NAdam, RMSprop

from directional_pruning import GRDA, Directional, prunable_groups

HALF = (torch.bfloat16, torch.float16)
BASES = {
    "SGD": lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda params: AdamW(params, lr=0.1, weight_decay=0.1),
    "AdamW foreach amsgrad": lambda params: AdamW(params, lr=0.1, amsgrad=True, foreach=True),
    "AdamW fused": lambda params: AdamW(params, lr=0.1, fused=True),
    "Muon": lambda params: Muon(params, lr=0.1),
    "RMSprop": lambda params: RMSprop(params, lr=0.1, momentum=0.5),
    "NAdam": lambda params: NAdam(params, lr=0.1),
    "Adagrad": lambda params: Adagrad(params, lr=0.1),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((9, 8), (12, 5))]


def advance(optimizer, params, steps):
    for n in steps:
        generator = torch.Generator().manual_seed(1000 + n)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def zeros(params):
    return torch.cat([p.detach().flatten() == 0 for p in params])


def same(a, b):
    return all(torch.equal(p, q) and torch.equal(torch.signbit(p), torch.signbit(q)) for p, q in zip(a, b, strict=True))


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.01, "maximize": True},
    ],
    ids=str,
)
def test_over_sgd_it_is_grda(options):
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    a, b = Directional(SGD(ours, lr=0.1, **options), c=1.0, mu=0.6), GRDA(theirs, lr=0.1, c=1.0, mu=0.6, **options)
    for n in range(60):
        for optimizer in (a, b):
            optimizer.param_groups[0]["lr"] = 0.0 if n == 20 else 0.1 / (1 + n // 20)
        advance(a, ours, [n])
        advance(b, theirs, [n])
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
            assert a.state[p]["threshold"] == b.state[q]["threshold"]
    assert torch.equal(zeros(ours), zeros(theirs))
    assert 0.05 < zeros(ours).float().mean() < 0.95


@every_base
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_pruning_it_is_the_base_bit_for_bit(base, dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    a, b = Directional(base(ours), c=0), base(theirs)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12) for optimizer in (a, b)]
    for n in range(15):
        advance(a, ours, [n])
        advance(b, theirs, [n])
        for scheduler in schedulers:
            scheduler.step()
        assert same(ours, theirs)
    assert all("dual" not in a.state[p] for p in ours)


@every_base
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_weights_are_the_thresholded_dual_and_pruned_ones_positive_zero(base, dtype):
    params = parameters(dtype)
    addresses = [p.data_ptr() for p in params]
    optimizer = Directional(base(params), c=1.0, mu=0.6)
    for n in range(25):
        advance(optimizer, params, [n])
        for p in params:
            v, g = optimizer.state[p]["dual"], optimizer.state[p]["threshold"].item()
            assert v.dtype == (torch.float32 if dtype in HALF else dtype)
            assert torch.equal(p, (v - v.clamp(-g, g)).to(dtype))
            assert not torch.signbit(p[p == 0]).any()
    assert 0 < zeros(params).float().mean() < 1
    assert [p.data_ptr() for p in params] == addresses


@every_base
def test_stop_save_load_and_go_on_is_never_having_stopped(base):
    for dtype in (torch.float32, torch.bfloat16):
        params = parameters(dtype)
        optimizer = Directional(base(params), c=1.0, mu=0.6)
        advance(optimizer, params, range(8))
        saved = through_file({"weights": params, "optimizer": optimizer.state_dict()})
        again = parameters(dtype)
        restored = Directional(base(again), c=0.0)
        restored.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for p, w in zip(again, saved["weights"], strict=True):
                p.copy_(w)
        assert restored.param_groups[0]["c"] == 1.0
        for p, q in zip(params, again, strict=True):
            for key in ("dual", "threshold", "updates"):
                a, b = optimizer.state[p][key], restored.state[q][key]
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
        if dtype == torch.float32:  # torch itself rounds the state of a base whose parameters are half precision
            advance(optimizer, params, range(8, 14))
            advance(restored, again, range(8, 14))
            assert same(params, again)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_like_the_original_and_apart_from_it(clone):
    params = parameters()
    optimizer = Directional(BASES["AdamW"](params), c=1.0)
    advance(optimizer, params, range(5))
    twin = clone(optimizer)
    twin_params = twin.param_groups[0]["params"]
    assert twin.base.param_groups is twin.param_groups is not optimizer.param_groups
    advance(optimizer, params, range(5, 10))
    advance(twin, twin_params, range(5, 10))
    assert same(params, twin_params)
    assert all(p is not q for p, q in zip(params, twin_params, strict=True))


def test_an_optimizer_that_has_already_trained_keeps_its_state():
    params, plain = parameters(), parameters()
    base, reference = BASES["AdamW"](params), BASES["AdamW"](plain)
    advance(base, params, range(5))
    advance(reference, plain, range(5))
    optimizer = Directional(base, c=1e-12)
    advance(optimizer, params, range(5, 8))
    advance(reference, plain, range(5, 8))
    for p, q in zip(params, plain, strict=True):
        torch.testing.assert_close(p, q)
        assert optimizer.state[p]["step"] == reference.state[q]["step"] == 8
        assert optimizer.state[p]["updates"] == 3


def test_weight_decay_pulls_on_weights_and_leaves_the_dual_of_a_pruned_weight():
    for base in (SGD, AdamW):
        p = nn.Parameter(torch.tensor([0.01, 5.0]))
        optimizer = Directional(base([p], lr=0.1, weight_decay=0.5), c=1.0, mu=0.6)
        duals = []
        for _ in range(5):
            p.grad = torch.zeros(2)
            optimizer.step()
            duals.append(optimizer.state[p]["dual"].clone())
        assert p[0] == 0
        assert all(v[0] == duals[0][0] for v in duals)
        assert all(later[1] < earlier[1] for earlier, later in pairwise(duals))


def test_a_change_of_the_weights_from_outside_stays():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = Directional(SGD([p], lr=0.1), c=0.1)
    for n in range(4):
        if n == 2:
            with torch.no_grad():
                p[0] = 5.0
        p.grad = torch.zeros(2)
        optimizer.step()
    assert 4.8 < p[0] < 5.0


def test_groups_rates_and_hooks_are_shared_with_the_base():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    base = AdamW(prunable_groups(model), lr=0.1)
    optimizer = Directional(base, c=2.0)
    assert [group["c"] for group in base.param_groups] == [2.0, 0.0]
    extra = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [("extra", extra)], "lr": 0.5})
    assert base.param_groups[2]["lr"] == 0.5
    assert base.param_groups[2]["c"] == 2.0
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    base.register_step_post_hook(lambda *_: calls.append("base"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(torch.ones(4, 8)) - 3).square().mean() + extra.square().sum()
        loss.backward()
        losses.append(loss.item())
        return loss.item()

    for _ in range(6):
        assert optimizer.step(closure) == losses[-1]
        scheduler.step()
    assert calls == ["pre", "base", "post"] * 6
    assert base.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**6)
    assert losses[-1] < losses[0]
    assert (model[0].weight == 0).any()
    assert "dual" not in base.state[model[1].weight]
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_parameter_without_gradient_and_a_rate_of_zero_change_nothing():
    first, second = parameters()
    optimizer, frozen = Directional(SGD([first, second], lr=0.1), c=1.0), {}
    for n in range(6):
        if n == 4:
            frozen = copy.deepcopy(optimizer.state_dict()["state"])
            optimizer.param_groups[0]["lr"] = 0.0
        advance(optimizer, [first], [n])
    assert second not in optimizer.state
    assert same([second], parameters()[1:])
    state = optimizer.state_dict()["state"]
    assert all(torch.equal(state[0][key], frozen[0][key]) for key in ("dual", "threshold", "updates"))
    assert state[0]["updates"] == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_is_never_a_silent_zero(bad):
    p = nn.Parameter(torch.ones(5))
    optimizer = Directional(SGD([p], lr=0.1), c=5.0)
    for _ in range(3):
        p.grad = torch.zeros(5)
        p.grad[2] = bad
        optimizer.step()
    assert torch.isfinite(p).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("power", [1, 1.5, 2, 4, 9])
def test_a_power_keeps_the_zeros_of_the_dual_and_shrinks_the_large_less(power, dtype):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(200).to(dtype))
    optimizer = Directional(AdamW([w], lr=0.1), c=1.0, mu=0.6, power=power)
    for _ in range(6):
        w.grad = torch.randn(200).to(dtype)
        optimizer.step()
        v, g = optimizer.state[w]["dual"].double(), optimizer.state[w]["threshold"].item()
        expected = torch.where(v.abs() > g, v * (1 - (g / v.abs()) ** power), 0.0)
        rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(w.detach().double(), expected, rtol=rounding, atol=rounding)
        assert not w[w == 0].signbit().any()
        assert (w[v.abs() <= g * (1 - 1e-6)] == 0).all()
    assert 0 < (w == 0).sum() < 200


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_power_never_makes_a_zero_of_a_bad_gradient(bad):
    w = nn.Parameter(torch.ones(3))
    optimizer = Directional(SGD([w], lr=0.1), c=1.0, mu=0.6, power=4)
    for gradient in (0.0, bad):
        w.grad = torch.full((3,), gradient)
        optimizer.step()
    assert not w.isfinite().any()


def test_a_state_from_before_there_was_a_power_goes_on_with_soft_thresholding():
    w = nn.Parameter(torch.randn(5))
    optimizer = Directional(SGD([w], lr=0.1), c=1.0)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["power"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["power"] == 1


def test_mistakes_are_named():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"invalid base_optimizer: list \(must be a torch optimizer\)"):
        Directional([p])
    with pytest.raises(ValueError, match="invalid c: -1"):
        Directional(SGD([p]), c=-1)
    with pytest.raises(ValueError, match="invalid mu: 2"):
        Directional(SGD([p]), mu=2)
    with pytest.raises(ValueError, match=r"but phase is torch\.complex64"):
        Directional(SGD([("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))]))
    with pytest.raises(ValueError, match=r"not negated views, .*, but phase is torch\.float32 on cpu"):
        Directional(SGD([("phase", nn.Parameter(torch.tensor([1 - 2j]).conj().imag))]))
    optimizer = Directional(SGD([p], lr=0.1))
    with pytest.raises(ValueError, match="no 'c'"):
        optimizer.load_state_dict(SGD([p], lr=0.1).state_dict())


@pytest.mark.parametrize("bad", [float("inf"), -float("inf")])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_weight_that_the_first_update_of_the_base_made_infinite_stays_infinite(bad, power):
    w = nn.Parameter(torch.ones(4))
    w.grad = torch.tensor([0.0, -bad, 0.0, 0.0])
    optimizer = Directional(SGD([w], lr=0.1), c=0.01, power=power)
    optimizer.step()
    assert w[1].item() == optimizer.state[w]["dual"][1].item() == bad


@pytest.mark.parametrize("rate", [-1.0, float("nan"), torch.tensor(-1.0)])
def test_a_rate_out_of_range_is_refused_before_the_base_moves(rate):
    w = nn.Parameter(torch.ones(4))
    w.grad = torch.ones(4)
    optimizer = Directional(SGD([w], lr=0.1), c=0.01)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(ValueError, match="invalid lr"):
        optimizer.step()
    assert (w == 1).all()
