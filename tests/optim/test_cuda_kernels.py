"""The CUDA kernels without a GPU: Triton's interpreter runs them on the CPU, and its compiler compiles them."""

import importlib.util
import math
import re
from array import array
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional, grda
from directional_pruning.optim import kernels
from directional_pruning.optim.functional import update_lists
from directional_pruning.optim.kernels import SGDOptions, cuda, launch
from directional_pruning.optim.target import Law
from directional_pruning.optim.threshold import cut, raise_threshold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]  # the interpreter computes with NumPy, which warns of 1 / 0
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
    path = Path(cuda.__file__).with_name("cuda_kernels.py")
    spec = importlib.util.spec_from_file_location("directional_pruning.optim.interpreted_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(cuda, "_kernels", lambda: module)


def update(ws, grads, vs, buffers, gs, ns, *, lr, c, mu, sgd=SGDOptions(), power=1, of_zeros=1.0):  # noqa: B008
    """As kernels.update, of tensors on the CPU by the kernels of CUDA; float16 too, which the CPU's does not take."""
    tables = {}
    nothing = [None] * len(ws)
    for w, d, v, b, g, n in zip(ws, grads or nothing, vs, buffers or nothing, gs, ns, strict=True):
        kind = cuda._TYPES.index(w.dtype) << 4 | cuda._TYPES.index(None if d is None else d.dtype)
        addresses = [0 if t is None else t.data_ptr() for t in (w, v, d, b, g, n)]
        tables.setdefault(kind, array("q")).extend([*addresses, w.numel(), 0, 0, 0])
    for kind, table in tables.items():
        cuda.update(kind, bytearray(table.tobytes()), lr, c, mu, sgd, launch.POWERS[power], of_zeros)


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
        lr = torch.tensor(0.25) if tensor_lr else 0.25
        update(ws, grads, vs, buffers, gs, ns, lr=lr, c=0.5, mu=0.6, sgd=SGDOptions(**options))
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


# AdamW's second moment underflows in float16.
@pytest.mark.parametrize(("make", "dtype"), [(AdamW, torch.float32), (SGD, torch.float16)], ids=["AdamW", "SGD-half"])
@pytest.mark.parametrize("power", [1, 2, 4, 8, 16])
def test_the_kernels_take_what_another_optimizer_did(interpreted, power, make, dtype):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(300).to(dtype))
    like = nn.Parameter(w.detach().clone())
    optimizer = Directional(make([like], lr=0.125), c=1.0, mu=0.6, power=power)
    base = make([w], lr=0.125)
    v, g, n = None, torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    for _ in range(5):
        w.grad = torch.randn(300).to(dtype)
        like.grad = w.grad.clone()
        optimizer.step()
        base.step()
        if v is None:
            v = w.detach().to(torch.float32, copy=True)
            threshold = raise_threshold(g, n, 0.125, 1.0, 0.6)
            cut(v, threshold, power, out=w.detach())
            continue
        update([w.detach()], None, [v], None, [g], [n], lr=0.125, c=1.0, mu=0.6, power=power)
    torch.testing.assert_close(w, like, rtol=TOLERANCE[dtype], atol=1e-6)
    assert torch.equal(w == 0, like == 0)
    assert (w == 0).any()


@pytest.mark.parametrize("power", [1, 8, math.inf])
@pytest.mark.parametrize("options", [{}, HYPERPARAMETERS["everything"]], ids=["plain", "everything"])
def test_under_a_target_the_kernels_and_torchs_operations_agree(interpreted, options, power):
    ours, expected = (make_state(torch.float32, "momentum" in options, [(5000,), (7,)]) for _ in range(2))
    sgd = SGDOptions(**options)
    modes = {"foreach": False, "fused": False, "capturable": False}
    for threshold in (0.0, 0.8, 0.8):
        for g in (*ours[3], *expected[3]):
            g.fill_(threshold)
        grads = [torch.randn(w.shape) for w in ours[0]]
        lists = (expected[0], grads, *expected[1:])
        update_lists(lists, lr=0.25, mu=0.6, law=Law(0.0, power, 0.25), sgd=sgd, **modes)
        ws, *rest = ours
        update(ws, grads, *rest, lr=0.25, c=0.0, mu=0.6, sgd=sgd, power=power, of_zeros=0.25)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(w == 0, like == 0) for w, like in zip(ours[0], expected[0], strict=True))
    assert 0 < int((ours[0][0] == 0).sum()) < 5000


def test_more_tensors_than_lanes_and_tensors_of_several_kinds_go_in_one_batch(interpreted):
    ws, vs, _, gs, ns = make_state(torch.float32, False, [(i % 7,) for i in range(150)])
    half = make_state(torch.float16, False, [(20,)])
    weights = ws + half[0]
    grads = [torch.ones_like(w) for w in weights]
    update(weights, grads, vs + half[1], None, gs + half[3], ns + half[4], lr=0.25, c=0.5, mu=0.6)
    expected = make_state(torch.float32, False, [(i % 7,) for i in range(150)])
    grda(expected[0], [torch.ones_like(w) for w in ws], *expected[1:], lr=0.25, c=0.5, mu=0.6, fused=False)
    torch.testing.assert_close(ws, expected[0], rtol=1e-6, atol=1e-6)
    assert all(n == 1 for n in ns + half[4])
    assert all(g == gs[0] for g in gs + half[3])


def test_a_gradient_that_is_not_finite_is_never_a_zero(interpreted):
    w = torch.tensor([0.5, 0.5, 0.5, -0.0])
    d = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    g, n = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    update([w], [d], [w.clone()], None, [g], [n], lr=0.25, c=0.5, mu=0.6)
    assert torch.equal(w[:3].isnan(), torch.tensor([True, False, False]))
    assert w[1:3].isinf().all()
    assert w[3] == 0
    assert not w[3].signbit()


@pytest.mark.parametrize("lr", [0.25, torch.tensor(0.25)])
def test_pruning_that_was_switched_off_leaves_the_threshold(interpreted, lr):
    ws, vs, _, gs, ns = make_state(torch.float32, False)
    for c in (0.5, 0.0):
        before = [g.item() for g in gs]
        update(ws, [torch.ones_like(w) for w in ws], vs, None, gs, ns, lr=lr, c=c, mu=0.6)
        assert ([g.item() for g in gs] == before) == (c == 0.0)
    assert all(n == 2 for n in ns)
    g = gs[0].float()
    torch.testing.assert_close(ws[0], vs[0] - vs[0].clamp(-g, g))


def test_a_tensor_rate_of_zero_moves_nothing(interpreted):
    ws, vs, _, gs, ns = make_state(torch.float32, False)
    for rate in (0.25, 0.0):
        before = [t.clone() for t in (*ws, *vs, *gs, *ns)]
        update(ws, [torch.ones_like(w) for w in ws], vs, None, gs, ns, lr=torch.tensor(rate), c=0.5, mu=0.6)
        same = all(map(torch.equal, before, (*ws, *vs, *gs, *ns)))
        assert same == (rate == 0.0)


@pytest.fixture
def launched(interpreted, monkeypatch):
    """The kinds of the tables that the optimizers hand to the kernels of CUDA, which are interpreted on the CPU."""
    if not kernels.available():
        pytest.skip("no compiler at installation, so nothing finds the tensors for the kernels")
    kinds = []
    monkeypatch.setattr(launch, "update_on_cpu", lambda kind, *rest: (kinds.append(kind), cuda.update(kind, *rest)))
    return kinds


def sgd_step(params):
    return GRDA(params, lr=0.25, c=0.5, mu=0.6, momentum=0.9)


def base_step(params):
    return Directional(SGD(params, lr=0.25), c=0.5, mu=0.6, power=2)


# The interpreter cannot subtract numbers of bfloat16, which the update after another optimizer does.
@pytest.mark.parametrize(
    ("make", "dtype"),
    [(sgd_step, torch.float32), (sgd_step, torch.bfloat16), (base_step, torch.float32)],
    ids=["GRDA-float32", "GRDA-bfloat16", "Directional-float32"],
)
def test_every_step_goes_to_the_kernels_and_ends_like_torchs_operations(launched, monkeypatch, make, dtype):
    def end():
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
        optimizer = make(params)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape).to(dtype)
            optimizer.step()
        return params, optimizer

    params, optimizer = end()
    # One table a step, of one kind; the first step of Directional makes the dual.
    weight = cuda._TYPES.index(dtype)
    kinds = [weight << 4] * 3 if isinstance(optimizer, Directional) else [weight << 4 | weight] * 4
    assert launched == kinds
    monkeypatch.setattr(launch, "_native", None)
    expected, like = end()
    assert launched == kinds  # the second time no kernel was called
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=TOLERANCE[dtype], atol=1e-6)
        torch.testing.assert_close(optimizer.state[p], like.state[q], rtol=1e-5, atol=1e-6)
    assert (params[0] == 0).any()


def test_types_are_kept_apart_and_parameters_without_a_gradient_left_alone(launched, monkeypatch):
    sizes = [(50, "float32"), (20, "bfloat16"), (30, "float32"), (9, "float16"), (8, "bfloat16"), (4, "float64")]

    def end():
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(size).to(getattr(torch, name))) for size, name in sizes]
        optimizer = GRDA(params, lr=0.25, c=0.5, mu=0.6, momentum=0.9)
        for step in range(4):
            for i, p in enumerate(params):
                p.grad = torch.randn(p.shape).to(p.dtype) if (i + step) % 4 else None
            optimizer.step()
        return params, optimizer

    params, optimizer = end()
    assert set(launched) == {i << 4 | i for i in (1, 2)}
    monkeypatch.setattr(launch, "_native", None)
    expected, like = end()
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-7, atol=1e-6)
        torch.testing.assert_close(optimizer.state[p], like.state[q], rtol=1e-4, atol=1e-5)


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

    from directional_pruning.optim.kernels import cuda_kernels

    types = {"float32": tl.float32, "bfloat16": tl.bfloat16, None: None}
    constants = {"WEIGHT": types[weight], "GRADIENT": types[gradient], "LR_ON_DEVICE": everything}
    constants |= dict.fromkeys(("MOMENTUM", "NESTEROV", "DECAY", "MAXIMIZE", "SCALE_ZEROS"), everything)
    constants |= {"POWER": 8 if everything else 4 if gradient is None else 1, "BLOCK": cuda._ELEMENTS_PER_BLOCK}
    constants |= {"COLUMNS": cuda._COLUMNS, "SIZE": cuda._SIZE}
    signature = {"table": "*i64", "thresholds": "*fp32", "block_row": "*i32", "block_start": "*i64"}
    signature |= {"rows": "i32", "lr": "*fp32" if everything else "fp32"}
    signature |= dict.fromkeys(("momentum", "weight_decay", "of_zeros"), "fp32")
    source = ASTSource(cuda_kernels.update, signature | dict.fromkeys(constants, "constexpr"), constants)
    assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    # Sixteen bytes at a time where a block is full: the dual read and written, the weight written, and more.
    assert len(re.findall(r"ld\.global\.v4\.b32", assembly)) >= 8
    assert len(re.findall(r"st\.global\.v4\.b32", assembly)) >= 8
    constants = {"LR_ON_DEVICE": everything, "COLUMNS": cuda._COLUMNS, "LANES": 128}
    signature = {
        "table": "*i64",
        "thresholds": "*fp32",
        "rows": "i32",
        "lr": signature["lr"],
    }
    signature |= dict.fromkeys(("factor", "factor_rest", "mu", "mu_rest"), "fp32")
    source = ASTSource(cuda_kernels.raise_thresholds, signature | dict.fromkeys(constants, "constexpr"), constants)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
