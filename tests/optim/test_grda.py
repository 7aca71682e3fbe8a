"""GRDA against the paper's equations, the authors' numbers, torch's SGD and its own promises."""

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import grda_recursion
from torch import nn

from directional_pruning import GRDA

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
SHAPES = ((9, 8), (25,), ())
HALF = (torch.bfloat16, torch.float16)


def parameters(seed=0, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def gradients(n, seed=1):
    """Float64 gradients of step n, the same for every dtype up to rounding."""
    generator = torch.Generator().manual_seed(1000 * seed + n)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def advance(optimizer, params, steps):
    for n in steps:
        for p, grad in zip(params, gradients(n), strict=True):
            p.grad = grad.to(p.dtype)
        optimizer.step()


def bits(tensors):
    """Every bit, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return [t.detach().contiguous().reshape(-1).view(torch.uint8).tolist() for t in tensors]


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
        {"weight_decay": 0.05},
        {"maximize": True},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02, "maximize": True},
    ],
)
@pytest.mark.parametrize(("c", "mu"), [(2.0, 0.4), (1.0, 0.51), (1.0, 1.0)])
def test_follows_the_papers_equations_with_changing_rates_and_missing_gradients(options, c, mu):
    params = parameters(dtype=torch.float64)
    lrs = [0.1 if n < 20 else 0.0 if n == 20 else 0.1 * 0.9 ** (n - 20) for n in range(60)]
    streams = [[gradients(n)[i].numpy() if (n + i) % 7 else None for n in range(60)] for i in range(len(params))]
    expected = [
        list(grda_recursion(p.detach().numpy(), stream, lrs, c=c, mu=mu, **options))
        for p, stream in zip(params, streams, strict=True)
    ]
    optimizer = GRDA(params, lr=0.1, c=c, mu=mu, **options)
    for n, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        for p, stream in zip(params, streams, strict=True):
            p.grad = None if stream[n] is None else torch.tensor(stream[n])
        optimizer.step()
        for p, steps in zip(params, expected, strict=True):
            w, v, g = steps[n]
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-13)
            if p in optimizer.state:
                np.testing.assert_allclose(optimizer.state[p]["dual"].numpy(), v, rtol=1e-12, atol=1e-13)
                assert optimizer.state[p]["threshold"].item() == pytest.approx(g, rel=1e-13)
    assert any((p == 0).any() for p in params)
    assert any((p != 0).any() for p in params)


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_agrees_with_the_authors_optimizer_on_its_own_gradients(path):
    stream = np.load(path)
    meta = json.loads(str(stream["meta"]))
    params = [nn.Parameter(torch.tensor(stream[f"w0_{i}"])) for i in range(len(meta["shapes"]))]
    own = meta["groups"] or [{}] * len(params)
    groups = [{"params": [p], **hyper} for p, hyper in zip(params, own, strict=True)]
    optimizer = GRDA(groups, c=meta["c"], mu=meta["mu"])
    missing = {tuple(pair) for pair in meta["missing"]}
    compared = 0
    for n in range(meta["steps"]):
        parts = torch.tensor(stream["grads"][n]).split([p.numel() for p in params])
        for i, (p, part) in enumerate(zip(params, parts, strict=True)):
            p.grad = None if (n, i) in missing else part.view_as(p)
        for group in optimizer.param_groups:
            group["lr"] = float(stream["lrs"][n])
        optimizer.step()
        if n + 1 in meta["keep"]:
            for i, p in enumerate(params):
                w = torch.tensor(stream[f"w_{n + 1}_{i}"])
                torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-6)
                assert torch.equal(p == 0, w == 0)
                compared += 1
                if "dual" in optimizer.state[p]:
                    v, g = torch.tensor(stream[f"v_{n + 1}_{i}"]), stream[f"thr_{n + 1}_{i}"].max()
                    torch.testing.assert_close(optimizer.state[p]["dual"], v, rtol=0, atol=1e-6)
                    assert optimizer.state[p]["threshold"].item() == pytest.approx(float(g), abs=1e-6)
    assert compared == len(meta["keep"]) * len(params)


def test_the_authors_streams_are_all_there():
    assert [path.stem for path in GOLDEN] == [
        "constant_lr",
        "late_gradient",
        "paper_schedule",
        "step_drop",
        "two_groups",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.5, "maximize": True},
    ],
)
def test_without_pruning_is_torchs_sgd_bit_for_bit(dtype, options):
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    a, b = GRDA(ours, lr=0.1, c=0, **options), torch.optim.SGD(theirs, lr=0.1, **options)
    for n in range(30):
        for optimizer in (a, b):  # a rate of zero, as warm-up gives, moves the momentum buffer alone
            optimizer.param_groups[0]["lr"] = 0.0 if n in (0, 11) else 0.1 / (n + 1)
        advance(a, ours, [n])
        advance(b, theirs, [n])
        assert bits(ours) == bits(theirs)
    assert all("dual" not in a.state[p] for p in ours)


def test_a_group_without_pruning_is_sgd_beside_a_group_with():
    ours, theirs = parameters(), parameters()
    a = GRDA([{"params": ours[:1]}, {"params": ours[1:], "c": 0}], lr=0.1, c=1.0, momentum=0.9)
    b = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for optimizer, params in ((a, ours), (b, theirs)):
        advance(optimizer, params, range(20))
    assert bits(ours[1:]) == bits(theirs[1:])
    assert (ours[0] == 0).any()


def test_pruning_may_begin_and_end_in_mid_training():
    params = parameters(dtype=torch.float64)
    optimizer = GRDA(params, lr=0.1, c=0)
    group = optimizer.param_groups[0]
    advance(optimizer, params, range(10))
    group["c"] = 0.5
    advance(optimizer, params, range(10, 20))
    # n is 10 when the pruning begins, as for every counter of updates
    rise = 0.5 * 0.1**1.01 * (20**0.51 - 10**0.51)
    assert optimizer.state[params[0]]["threshold"].item() == pytest.approx(rise)
    group["c"] = 0
    advance(optimizer, params, range(20, 25))
    assert optimizer.state[params[0]]["threshold"].item() == pytest.approx(rise)
    torch.testing.assert_close(params[0].detach(), soft(optimizer.state[params[0]]["dual"], rise), rtol=0, atol=1e-15)


def soft(v, g):
    return v - v.clamp(-g, g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_weights_are_the_thresholded_dual_and_pruned_ones_positive_zero(dtype):
    params = parameters(dtype=dtype)
    optimizer = GRDA(params, lr=0.1, c=0.5, mu=0.6)
    for n in range(40):
        advance(optimizer, params, [n])
        for p in params:
            state = optimizer.state[p]
            assert state["dual"].dtype == (torch.float32 if dtype in HALF else dtype)
            assert bits([p]) == bits([soft(state["dual"], state["threshold"].item()).to(dtype) + 0.0])
            assert not torch.signbit(p[p == 0]).any()
    assert 0 < sum(int((p == 0).sum()) for p in params) < sum(p.numel() for p in params)


def test_a_survivor_too_small_for_float16_becomes_positive_zero():
    p = nn.Parameter(torch.tensor([-1.0, 1.0], dtype=torch.float16))
    optimizer = GRDA([p], lr=1.0, c=1e-3, mu=1.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    just_above = torch.nextafter(torch.tensor(2e-3), torch.tensor(1.0))  # the threshold of the second step
    optimizer.state[p]["dual"].copy_(torch.stack([-just_above, just_above]))
    optimizer.step()
    assert (soft(optimizer.state[p]["dual"], 2e-3) != 0).all()
    assert bits([p]) == bits([torch.zeros(2, dtype=torch.float16)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_keep_dtype_storage_views_and_autograd_version(dtype):
    base = torch.randn(4, 6, dtype=dtype)
    p = nn.Parameter(base.t())  # a view, and not contiguous
    address, version = p.data_ptr(), p._version
    optimizer = GRDA([p], lr=0.1, c=2.0)
    for n in range(5):
        p.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(n)).to(dtype)
        optimizer.step()
    assert (p.data_ptr(), p.dtype) == (address, dtype)
    assert torch.equal(p, base.t())
    assert (p == 0).any()
    assert p._version > version  # autograd notices a change between forward and backward


def test_a_parameter_without_gradient_is_not_touched_and_does_not_age():
    first, second = nn.Parameter(torch.tensor([0.001, 2.0])), nn.Parameter(torch.tensor([0.001, 2.0]))
    optimizer = GRDA([first, second], lr=0.1, c=1.0)
    for n in range(10):
        first.grad = torch.zeros(2)
        second.grad = torch.zeros(2) if n == 9 else None
        optimizer.step()
        if n == 8:
            assert second.tolist() == torch.tensor([0.001, 2.0]).tolist()
            assert second not in optimizer.state
    assert optimizer.state[first]["step"].item() == 10
    assert optimizer.state[second]["step"].item() == 1
    assert optimizer.state[second]["threshold"].item() == pytest.approx(0.1**1.01)


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
def test_a_rate_of_zero_makes_the_state_and_changes_nothing(lr):
    params = parameters()
    before = bits(params)
    optimizer = GRDA(params, lr=lr, c=0.5)
    advance(optimizer, params, [0])
    assert bits(params) == before
    assert bits(optimizer.state[p]["dual"] for p in params) == before
    assert all(optimizer.state[p]["step"].item() == 0 == optimizer.state[p]["threshold"].item() for p in params)
    optimizer.param_groups[0]["lr"] = 0.1
    advance(optimizer, params, [1, 2])
    frozen = bits(params), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["lr"] = lr
    advance(optimizer, params, [3])
    assert bits(params) == frozen[0]
    for i, state in optimizer.state_dict()["state"].items():
        assert bits(state[key] for key in ("dual", "step", "threshold")) == bits(
            frozen[1][i][key] for key in ("dual", "step", "threshold")
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stop_save_load_and_go_on_is_never_having_stopped(dtype, momentum):
    def fresh():
        params = parameters(dtype=dtype)
        groups = [{"params": params[:2]}, {"params": params[2:], "c": 0.0}]
        return params, GRDA(groups, lr=0.1, c=0.3, mu=0.6, momentum=momentum, weight_decay=0.01)

    params, optimizer = fresh()
    advance(optimizer, params, range(12))
    saved = through_file({"weights": params, "optimizer": optimizer.state_dict()})
    for p, state in ((p, optimizer.state[p]) for p in params[:2]):  # a step count no half-precision number can hold
        assert state["step"].item() == 12
        assert p.dtype == dtype
    advance(optimizer, params, range(12, 20))

    again, restored = fresh()
    restored.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for p, w in zip(again, saved["weights"], strict=True):
            p.copy_(w)
    for p in again[:2]:
        assert restored.state[p]["dual"].dtype == (torch.float32 if dtype in HALF else dtype)
        assert restored.state[p]["threshold"].dtype == torch.float64
    advance(restored, again, range(12, 20))
    assert bits(again) == bits(params)
    for p, q in zip(again, params, strict=True):
        a, b = restored.state[p], optimizer.state[q]
        assert a.keys() == b.keys()
        assert bits(a.values()) == bits(b.values())


@pytest.mark.parametrize("steps", [257, 70_001, 16_000_001])
def test_the_clock_survives_loading_into_half_precision(steps):
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = GRDA([p], lr=0.1, c=1e-6)
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state[p]["step"].fill_(steps)
    restored = GRDA([p], lr=0.1, c=1e-6)
    restored.load_state_dict(through_file(optimizer.state_dict()))
    restored.step()
    assert restored.state[p]["step"].item() == steps + 1


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_like_the_original(clone):
    params = parameters()
    optimizer = GRDA(params, lr=0.1, c=0.3, momentum=0.9)
    advance(optimizer, params, range(5))
    twin = clone(optimizer)
    twin_params = twin.param_groups[0]["params"]
    advance(optimizer, params, range(5, 10))
    advance(twin, twin_params, range(5, 10))
    assert bits(twin_params) == bits(params)
    assert all(p is not q for p, q in zip(params, twin_params, strict=True))


def test_a_state_dict_hook_of_the_user_has_the_last_word():
    params = parameters(dtype=torch.bfloat16)
    optimizer = GRDA(params, lr=0.1, c=0.3)
    advance(optimizer, params, range(3))

    def forget_the_thresholds(_, state_dict):
        state = {i: {**s, "threshold": torch.zeros_like(s["threshold"])} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": state}

    optimizer.register_load_state_dict_pre_hook(forget_the_thresholds)
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(optimizer.state[p]["threshold"].item() == 0 for p in params)
    assert all(optimizer.state[p]["dual"].dtype == torch.float32 for p in params)


def test_a_post_hook_of_the_user_has_the_very_last_word():
    params = parameters(dtype=torch.bfloat16)
    optimizer = GRDA(params, lr=0.1, c=0.3)
    advance(optimizer, params, range(3))
    optimizer.register_load_state_dict_post_hook(lambda o: [state["dual"].fill_(7) for state in o.state.values()])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all((optimizer.state[p]["dual"] == 7).all() for p in params)


def test_a_state_dict_that_does_not_fit_is_refused_by_name_and_nothing_is_loaded():
    params = parameters()
    optimizer = GRDA(params, lr=0.1, c=0.3)
    advance(optimizer, params, range(3))
    before = bits(optimizer.state[p]["dual"] for p in params)
    good = optimizer.state_dict()
    other = [nn.Parameter(torch.ones(p.numel() + 1)) for p in params]
    for p in other:
        p.grad = torch.ones_like(p)
    misfit = GRDA(other, lr=0.1, c=0.3)
    misfit.step()
    broken = {**good, "param_groups": [{**good["param_groups"][0], "c": -1}]}
    for state, message in (
        (
            torch.optim.SGD(params, lr=0.1).state_dict(),
            "a parameter group has no 'c': not a state dict of this optimizer",
        ),
        (misfit.state_dict(), r"shape \(9, 8\), does not fit its saved dual of shape \(73,\)"),
        (broken, "invalid c: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        assert bits(optimizer.state[p]["dual"] for p in params) == before


def test_a_state_dict_of_sgd_can_be_made_ours_by_a_hook():
    params = parameters()
    sgd = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    advance(sgd, params, range(3))
    optimizer = GRDA(params, lr=0.1, c=0.3, momentum=0.9)

    def adopt(_, state_dict):
        groups = [{**optimizer.defaults, **group, "c": 0.3} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(adopt)
    optimizer.load_state_dict(sgd.state_dict())
    buffers = bits(optimizer.state[p]["momentum_buffer"] for p in params)
    assert buffers == bits(sgd.state[p]["momentum_buffer"] for p in params)
    advance(optimizer, params, range(3, 6))
    assert all(optimizer.state[p]["step"].item() == 3 for p in params)


def test_a_group_added_later_starts_its_own_clock():
    first, second = parameters()[:2]
    optimizer = GRDA([first], lr=0.1, c=1.0)
    for n in range(6):
        if n == 4:
            optimizer.add_param_group({"params": [second], "c": 2.0})
        first.grad, second.grad = torch.zeros_like(first), torch.zeros_like(second)
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in (first, second)] == [6, 2]
    assert optimizer.state[second]["threshold"].item() == pytest.approx(2.0 * 0.1**1.01 * 2**0.51)


def test_a_step_with_overflowed_gradients_is_skipped_by_the_grad_scaler():
    params = parameters()
    optimizer, scaler = GRDA(params, lr=0.1, c=0.5), torch.amp.GradScaler("cpu", init_scale=4.0)
    for n, bad in enumerate((False, True, False)):
        before = bits(params)
        scaler.scale(sum(p.sum() for p in params))
        for p, grad in zip(params, gradients(n), strict=True):
            p.grad = 4.0 * grad.float() * (float("inf") if bad else 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert (bits(params) == before) == bad
    assert all(optimizer.state[p]["step"].item() == 2 for p in params)


@pytest.mark.parametrize("rate", [-1e-18, torch.tensor(-0.25, dtype=torch.float64)])
def test_a_rate_that_a_scheduler_made_negative_is_refused_before_anything_moves(rate):
    first, second = parameters()[:2]
    optimizer = GRDA([{"params": [first]}, {"params": [second]}], lr=0.1, c=0.5)
    first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
    before = bits([first, second])
    optimizer.param_groups[1]["lr"] = rate
    with pytest.raises(ValueError, match=f"invalid lr: {float(rate)}"):
        optimizer.step()
    assert bits([first, second]) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_bad_gradient_is_never_a_silent_zero(bad, dtype):
    p = nn.Parameter(torch.ones(40, dtype=dtype))
    optimizer = GRDA([p], lr=0.1, c=0.5)
    p.grad = torch.zeros_like(p)
    p.grad[7] = bad
    optimizer.step()
    assert not torch.isfinite(p[7])
    assert torch.isfinite(p).sum() == 39


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"invalid lr: -0.1 \(must be >= 0 and finite\)"),
        ({"lr": float("nan")}, "invalid lr: nan"),
        ({"lr": torch.ones(2)}, r"invalid lr: a tensor of shape \(2,\)"),
        ({"c": -0.1}, r"invalid c: -0.1 \(must be >= 0 and finite\)"),
        ({"c": float("inf")}, "invalid c: inf"),
        ({"mu": 0.0}, r"invalid mu: 0.0 \(must be in \(0, 1\]\)"),
        ({"mu": 1.5}, "invalid mu: 1.5"),
        ({"momentum": -1}, "invalid momentum: -1"),
        ({"weight_decay": -1}, "invalid weight_decay: -1"),
        ({"nesterov": True}, "invalid nesterov: True"),
        ({"lr": 1e300}, r"invalid lr: 1e\+300 \(must be >= 0 and finite"),
        ({"lr": "0.1"}, "invalid lr: '0.1'"),
        ({"c": None}, "invalid c: None"),
        ({"mu": [0.5]}, r"invalid mu: \[0.5\]"),
        ({"fused": "yes"}, "invalid fused: 'yes'"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(options, message):
    with pytest.raises(ValueError, match=message):
        GRDA(parameters(), **options)
    if not isinstance(options.get("lr"), torch.Tensor):
        with pytest.raises(ValueError, match=message):
            GRDA([{"params": parameters(), **options}])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_parameters_that_cannot_be_thresholded_are_refused_by_name(dtype):
    p = nn.Parameter(torch.ones(2).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=r"needs real floating-point .*, but phase is torch\.\w+ on cpu"):
        GRDA([("phase", p)])


def test_negated_views_whose_memory_holds_other_numbers_are_refused_by_name():
    p = nn.Parameter(torch.tensor([1 - 2j]).conj().imag)
    with pytest.raises(
        ValueError, match=r"not negated views, as x\.conj\(\)\.imag is, but phase is torch\.float32 on cpu"
    ):
        GRDA([("phase", p)])


def test_a_sparse_gradient_is_refused_before_anything_moves():
    dense, table = nn.Parameter(torch.ones(2)), nn.Embedding(4, 2, sparse=True).weight
    optimizer = GRDA([{"params": [("dense", dense)]}, {"params": [("table", table)]}], lr=0.1)
    (dense.sum() + nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum()).backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients, but table has one"):
        optimizer.step()
    assert dense.tolist() == [1.0, 1.0]


def test_the_state_is_lazy_and_holds_exactly_one_buffer():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.1)
    assert len(optimizer.state) == 0
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    large = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    scalars = [t for state in optimizer.state.values() for t in state.values() if not t.ndim]
    assert sum(t.nbytes for t in large) == weights
    assert sum(t.nbytes for t in scalars) == 12 * len(optimizer.state)


def test_works_with_schedulers_tensor_rates_closures_and_hooks():
    def run(lr):
        params = parameters()
        optimizer = GRDA(params, lr=lr, c=0.2, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        calls = []
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))

        def closure():
            optimizer.zero_grad()
            loss = sum(((p - 0.5) ** 2).sum() for p in params)
            loss.backward()
            return loss.item()

        losses = []
        for _ in range(10):
            losses.append(optimizer.step(closure))
            scheduler.step()
        assert calls == ["pre", "post"] * 10
        return params, losses

    params, losses = run(0.1)
    assert losses[-1] < losses[0]
    with_tensor, _ = run(torch.tensor(0.1, dtype=torch.float64))
    for p, q in zip(params, with_tensor, strict=True):
        torch.testing.assert_close(p, q)


streams = st.integers(min_value=0, max_value=2**31)


@settings(max_examples=30, deadline=None)
@given(seed=streams, cs=st.lists(st.floats(0, 2), min_size=2, max_size=2).map(sorted), mu=st.floats(0.1, 1.0))
def test_more_c_prunes_a_superset_on_the_same_gradients(seed, cs, mu):
    runs = []
    for c in cs:
        params = parameters(seed, torch.float64)
        advance(GRDA(params, lr=0.1, c=c, mu=mu), params, range(8))
        runs.append(torch.cat([p.detach().flatten() for p in params]) == 0)
    assert bool((runs[1] | ~runs[0]).all())


@settings(max_examples=30, deadline=None)
@given(seed=streams, cut=st.integers(1, 11), momentum=st.sampled_from([0.0, 0.9]))
def test_permuting_and_splitting_parameters_changes_nothing(seed, cut, momentum):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(12, generator=generator)
    grads = torch.randn(10, 12, generator=generator)
    order = torch.randperm(12, generator=generator)

    def train(parts, positions):
        optimizer = GRDA(parts, lr=0.1, c=0.3, momentum=momentum, weight_decay=0.01)
        for grad in grads:
            for p, at in zip(parts, positions, strict=True):
                p.grad = grad[at]
            optimizer.step()

    whole = nn.Parameter(w.clone())
    train([whole], [slice(None)])
    positions = [order[:cut], order[cut:]]
    parts = [nn.Parameter(w[at].clone()) for at in positions]
    train(parts, positions)
    for p, at in zip(parts, positions, strict=True):
        assert bits([p]) == bits([whole[at]])


@settings(max_examples=20, deadline=None)
@given(stop=st.integers(0, 15), dtype=st.sampled_from([torch.float32, *HALF]), c=st.floats(0, 1))
def test_saving_and_loading_at_any_step_equals_continuing(stop, dtype, c):
    params = parameters(dtype=dtype)
    optimizer = GRDA(params, lr=0.1, c=c, momentum=0.9)
    advance(optimizer, params, range(stop))
    again = [nn.Parameter(p.detach().clone()) for p in params]
    restored = GRDA(again, lr=0.1, c=c, momentum=0.9)
    restored.load_state_dict(through_file(optimizer.state_dict()))
    advance(optimizer, params, range(stop, 16))
    advance(restored, again, range(stop, 16))
    assert bits(again) == bits(params)


def test_a_state_dict_from_before_an_option_existed_gets_its_default():
    params = parameters()
    optimizer = GRDA(params, lr=0.1, c=0.3)
    advance(optimizer, params, range(3))
    old = copy.deepcopy(optimizer.state_dict())
    del old["param_groups"][0]["fused"]
    optimizer.load_state_dict(old)
    assert optimizer.param_groups[0]["fused"] is None
    advance(optimizer, params, [3])
    assert all(optimizer.state[p]["step"].item() == 4 for p in params)


def test_a_momentum_that_comes_back_after_pruning_began_has_a_float32_buffer():
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = GRDA([p], lr=0.1, c=0.0, momentum=0.9)
    for c, momentum, dtype in ((0.0, 0.9, torch.bfloat16), (0.1, 0.0, torch.bfloat16), (0.1, 0.9, torch.float32)):
        optimizer.param_groups[0].update(c=c, momentum=momentum)
        optimizer.load_state_dict(through_file(optimizer.state_dict()))
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.state[p]["momentum_buffer"].dtype == dtype
