"""The CUDA kernels without a GPU: Triton's interpreter runs them on the CPU, and its compiler compiles them."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from directional_pruning import Directional, grda
from directional_pruning.optim import triton as ours
from directional_pruning.optim.threshold import cut, raise_threshold

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # the interpreter computes with NumPy, which warns of 1 / 0
SHAPES = [(5000,), (4096,), (3,), (64, 65), (0,), ()]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
HYPERPARAMETERS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.1, "maximize": True},
    "everything": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
}


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels as Triton's interpreter runs them."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = Path(ours.__file__).with_name("triton_kernels.py")
    spec = importlib.util.spec_from_file_location("directional_pruning.optim.interpreted_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ours, "_kernels", lambda: module)


def make_state(dtype, momentum, shapes=SHAPES):
    """Weights, duals, buffers, thresholds and clocks."""
    torch.manual_seed(0)
    ws = [torch.randn(shape).to(dtype) for shape in shapes]
    vs = [w.float().clone() for w in ws]
    buffers = [torch.zeros_like(v) if momentum else None for v in vs]
    return ws, vs, buffers, [torch.tensor(0.0, dtype=torch.float64) for _ in ws], [torch.tensor(0.0) for _ in ws]


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_the_kernels_and_torchs_operations_agree(interpreted, name, dtype, tensor_lr):
    options = HYPERPARAMETERS[name]
    ws, vs, buffers, gs, ns = make_state(dtype, "momentum" in options)
    expected = make_state(dtype, "momentum" in options)
    for _ in range(4):
        grads = [torch.randn(w.shape).to(dtype) for w in ws]
        w, v, b, g, n = expected
        grda(w, grads, v, b, g, n, lr=0.25, c=0.5, mu=0.6, fused=False, **options)
        batch = ours.Batch(torch.tensor(0.25) if tensor_lr else 0.25, 0.5, 0.6, **options)
        for w, v, d, g, n, b in zip(ws, vs, grads, gs, ns, buffers, strict=True):
            batch.add(w, v, d, g, n, b)
        batch.flush()
        # A last bit of difference in a weight of half precision would grow through its decay. The interpreter cuts off
        # what does not fit bfloat16, where the device rounds.
        for w, like in zip(ws, expected[0], strict=True):
            torch.testing.assert_close(w, like, rtol=TOLERANCE[dtype], atol=1e-6)
            assert torch.equal(w == 0, like == 0)
            assert not w[w == 0].signbit().any()
            w.copy_(like)
    for v, like in zip(vs, expected[1], strict=True):
        torch.testing.assert_close(v, like, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gs, expected[3], rtol=1e-12, atol=0)
    assert ns == expected[4]
    assert (ws[0] == 0).any()


@pytest.mark.parametrize("power", [1, 2, 4])
def test_the_kernels_take_what_another_optimizer_did(interpreted, power):
    w = nn.Parameter(torch.randn(300))
    like = nn.Parameter(w.detach().clone())
    optimizer = Directional(AdamW([like], lr=0.125), c=1.0, mu=0.6, power=power)
    base = AdamW([w], lr=0.125)
    v, g, n = None, torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    for _ in range(5):
        w.grad = torch.randn(300)
        like.grad = w.grad.clone()
        optimizer.step()
        base.step()
        if v is None:
            v = w.detach().clone()
            threshold = raise_threshold(g, n, 0.125, 1.0, 0.6)
            cut(v, threshold, power, out=w.detach())
            continue
        batch = ours.Batch(0.125, 1.0, 0.6, power=power)
        batch.add(w.detach(), v, None, g, n)
        batch.flush()
    torch.testing.assert_close(w, like, rtol=1e-6, atol=1e-6)
    assert torch.equal(w == 0, like == 0)
    assert (w == 0).any()


def test_more_tensors_than_lanes_and_tensors_of_several_kinds_go_in_one_batch(interpreted):
    ws, vs, _, gs, ns = make_state(torch.float32, False, [(i % 7,) for i in range(150)])
    half = make_state(torch.float16, False, [(20,)])
    batch = ours.Batch(0.25, 0.5, 0.6)
    for w, v, g, n in zip(ws + half[0], vs + half[1], gs + half[3], ns + half[4], strict=True):
        batch.add(w, v, torch.ones_like(w), g, n)
    batch.flush()
    expected = make_state(torch.float32, False, [(i % 7,) for i in range(150)])
    grda(expected[0], [torch.ones_like(w) for w in ws], *expected[1:], lr=0.25, c=0.5, mu=0.6, fused=False)
    torch.testing.assert_close(ws, expected[0], rtol=1e-6, atol=1e-6)
    assert all(n == 1 for n in ns + half[4])
    assert all(g == gs[0] for g in gs + half[3])


def test_a_gradient_that_is_not_finite_is_never_a_zero(interpreted):
    w = torch.tensor([0.5, 0.5, 0.5, -0.0])
    state = w.clone(), None, torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    batch = ours.Batch(0.25, 0.5, 0.6)
    batch.add(w, state[0], torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]), *state[2:])
    batch.flush()
    assert torch.equal(w[:3].isnan(), torch.tensor([True, False, False]))
    assert w[1:3].isinf().all()
    assert w[3] == 0
    assert not w[3].signbit()


@pytest.mark.parametrize("lr", [0.25, torch.tensor(0.25)])
def test_pruning_that_was_switched_off_leaves_the_threshold(interpreted, lr):
    ws, vs, _, gs, ns = make_state(torch.float32, False)
    for c in (0.5, 0.0):
        before = [g.item() for g in gs]
        batch = ours.Batch(lr, c, 0.6)
        for row in zip(ws, vs, [torch.ones_like(w) for w in ws], gs, ns, strict=True):
            batch.add(*row)
        batch.flush()
        assert ([g.item() for g in gs] == before) == (c == 0.0)
    assert all(n == 2 for n in ns)
    g = gs[0].float()
    torch.testing.assert_close(ws[0], vs[0] - vs[0].clamp(-g, g))


def test_a_tensor_rate_of_zero_moves_nothing(interpreted):
    ws, vs, _, gs, ns = make_state(torch.float32, False)
    for rate in (0.25, 0.0):
        before = [t.clone() for t in (*ws, *vs, *gs, *ns)]
        batch = ours.Batch(torch.tensor(rate), 0.5, 0.6)
        for row in zip(ws, vs, [torch.ones_like(w) for w in ws], gs, ns, strict=True):
            batch.add(*row)
        batch.flush()
        same = all(map(torch.equal, before, (*ws, *vs, *gs, *ns)))
        assert same == (rate == 0.0)


def test_autograd_notices_the_change(interpreted):
    w = nn.Parameter(torch.ones(4))
    loss = (w * w).sum()
    batch = ours.Batch(0.25, 0.5, 0.6)
    batch.add(w, torch.ones(4), torch.ones(4), torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0))
    batch.flush()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_only_tensors_on_cuda_fit():
    w = torch.ones(4)
    assert not ours.fits(w, w, w)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("weight", "gradient", "everything"),
    [("float32", "float32", False), ("bfloat16", "bfloat16", True), ("float32", None, False)],
)
def test_the_kernels_compile_for_cuda_with_wide_loads_and_stores(weight, gradient, everything, capability):
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from directional_pruning.optim import triton_kernels

    types = {"float32": tl.float32, "bfloat16": tl.bfloat16, None: None}
    constants = {"WEIGHT": types[weight], "GRADIENT": types[gradient], "LR_ON_DEVICE": everything}
    constants |= dict.fromkeys(("MOMENTUM", "NESTEROV", "DECAY", "MAXIMIZE"), everything)
    constants |= {"POWER": 4 if gradient is None else 1, "BLOCK": 4096}
    signature = {"table": "*i64", "thresholds": "*fp32", "sizes": "*i64", "block_row": "*i32", "block_start": "*i64"}
    signature |= {"rows": "i32", "lr": "*fp32" if everything else "fp32", "momentum": "fp32", "weight_decay": "fp32"}
    source = ASTSource(triton_kernels.update, signature | dict.fromkeys(constants, "constexpr"), constants)
    assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    # Sixteen bytes at a time where a block is full: the dual read and written, the weight written, and more.
    assert len(re.findall(r"ld\.global\.v4\.b32", assembly)) >= 8
    assert len(re.findall(r"st\.global\.v4\.b32", assembly)) >= 8
    constants = {"LR_ON_DEVICE": everything, "LANES": 128}
    signature = {
        "table": "*i64",
        "thresholds": "*fp32",
        "rows": "i32",
        "lr": signature["lr"],
    }
    signature |= dict.fromkeys(("factor", "factor_rest", "mu", "mu_rest"), "fp32")
    source = ASTSource(triton_kernels.raise_thresholds, signature | dict.fromkeys(constants, "constexpr"), constants)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
