"""The CUDA kernels without a GPU: Triton's interpreter runs them on the CPU, and its compiler compiles them."""

import ctypes
import importlib.util
import re
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional, grda
from directional_pruning.optim.kernels import batch as native
from directional_pruning.optim.kernels import cuda as ours
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
    path = Path(ours.__file__).with_name("cuda_kernels.py")
    spec = importlib.util.spec_from_file_location("directional_pruning.optim.interpreted_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(ours, "_kernels", lambda: module)


class Batch:
    """As native.Batch, of tensors on the CPU for the kernels of CUDA."""

    def __init__(self, lr, c, mu, *, momentum=0.0, nesterov=False, weight_decay=0.0, maximize=False, power=1):
        self.law = lr, c, mu, momentum, weight_decay, nesterov, maximize, power
        self.tables, self.alive = {}, []

    def add(self, w, v, d, g, n, buffer=None):
        kind = ours._TYPES.index(w.dtype) << 4 | ours._TYPES.index(None if d is None else d.dtype)
        addresses = [0 if t is None else t.data_ptr() for t in (w, v, d, buffer, g, n)]
        self.tables.setdefault(kind, array("q")).extend([*addresses, w.numel(), 0, 0, 0])
        self.alive.append((w, v, d, g, n, buffer))

    def flush(self):
        for kind, table in self.tables.items():
            ours.update(kind, bytearray(table.tobytes()), *self.law)


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
        batch = Batch(torch.tensor(0.25) if tensor_lr else 0.25, 0.5, 0.6, **options)
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
        batch = Batch(0.125, 1.0, 0.6, power=power)
        batch.add(w.detach(), v, None, g, n)
        batch.flush()
    torch.testing.assert_close(w, like, rtol=1e-6, atol=1e-6)
    assert torch.equal(w == 0, like == 0)
    assert (w == 0).any()


def test_more_tensors_than_lanes_and_tensors_of_several_kinds_go_in_one_batch(interpreted):
    ws, vs, _, gs, ns = make_state(torch.float32, False, [(i % 7,) for i in range(150)])
    half = make_state(torch.float16, False, [(20,)])
    batch = Batch(0.25, 0.5, 0.6)
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
    batch = Batch(0.25, 0.5, 0.6)
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
        batch = Batch(lr, c, 0.6)
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
        batch = Batch(torch.tensor(rate), 0.5, 0.6)
        for row in zip(ws, vs, [torch.ones_like(w) for w in ws], gs, ns, strict=True):
            batch.add(*row)
        batch.flush()
        same = all(map(torch.equal, before, (*ws, *vs, *gs, *ns)))
        assert same == (rate == 0.0)


class Exchange(ctypes.Structure):
    """What torch offers to be asked about a tensor: DLPackExchangeAPI of DLPack's header."""

    _fields_ = (
        ("version", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("older", "allocator", "export", "import", "describe", "stream")),
    )


@pytest.fixture
def disguised(interpreted, monkeypatch):
    """Tensors pass for ones on CUDA until the kernels, which are interpreted, get their addresses.

    They seem to lie on the second device, those whose addresses are in ``elsewhere`` on the third.
    """
    if not native.available():
        pytest.skip("no compiler at installation, so nothing gathers for the kernels")
    name, capsule, extension = b"dlpack_exchange_api", torch.Tensor.__dlpack_c_exchange_api__, native._native
    find = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    )
    describe = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
    exchange = Exchange.from_buffer_copy(Exchange.from_address(find(capsule, name)))
    real = describe(exchange.describe)

    def lie(tensor, description):
        try:
            real(tensor, description)
        except RuntimeError:
            return -1
        device, index = (ctypes.c_int32.from_address(description + offset) for offset in (8, 12))
        device.value, index.value = 2, 2 if tensor.data_ptr() in elsewhere else 1
        return 0

    lie = describe(lie)
    exchange.describe = ctypes.cast(lie, ctypes.c_void_p).value
    extension.connect(make(ctypes.addressof(exchange), name, None), torch.Tensor, nn.Parameter)
    elsewhere, kinds, update = set(), [], ours.update

    def to_the_interpreter(kind, *arguments):
        kinds.append(kind)
        assert kind >> 8 == 2
        update(kind & 255, *arguments)

    monkeypatch.setattr(ours, "available", lambda: True)
    monkeypatch.setattr(ours, "update", to_the_interpreter)
    yield SimpleNamespace(kinds=kinds, elsewhere=elsewhere)
    extension.connect(capsule, torch.Tensor, nn.Parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda params: GRDA(params, lr=0.25, c=0.5, mu=0.6, momentum=0.9),
        lambda params: Directional(SGD(params, lr=0.25), c=0.5, mu=0.6, power=2),
    ],
    ids=["GRDA", "Directional"],
)
def test_every_step_goes_to_the_kernels_and_ends_like_torchs_operations(disguised, monkeypatch, make, dtype):
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
    kinds = disguised.kinds.copy()
    monkeypatch.setattr(native, "_native", None)
    expected, like = end()
    assert disguised.kinds == kinds  # the second time no kernel was called
    # One launch a step; the first of Directional makes the dual.
    follows = isinstance(optimizer, Directional)
    weight = ours._TYPES.index(dtype)
    assert kinds == [2 << 8 | weight << 4 | (0 if follows else weight)] * (3 if follows else 4)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=TOLERANCE[dtype], atol=1e-6)
        torch.testing.assert_close(optimizer.state[p], like.state[q], rtol=1e-5, atol=1e-6)
    assert (params[0] == 0).any()


def test_types_are_kept_apart_and_parameters_without_a_gradient_left_alone(disguised, monkeypatch):
    sizes = [(50, "float32"), (20, "float16"), (30, "float32"), (9, "float16"), (8, "bfloat16"), (4, "float64")]

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
    assert set(disguised.kinds) == {2 << 8 | i << 4 | i for i in (1, 2, 3)}
    monkeypatch.setattr(native, "_native", None)
    expected, like = end()
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-7, atol=1e-6)
        torch.testing.assert_close(optimizer.state[p], like.state[q], rtol=1e-4, atol=1e-5)


def test_a_rate_in_a_tensor_is_read_by_the_kernels_alone(disguised):
    w, v, g, n = torch.ones(8), torch.ones(8), torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    batch = native.Batch(torch.tensor(0.25), 0.5, 1.0)
    assert batch.add(w, v, torch.ones(8), g, n)
    batch.flush()
    assert (n.item(), g.item()) == (1, 0.5 * 0.25**1.5)
    torch.testing.assert_close(w, torch.full((8,), 1 - 0.25 - 0.0625))


def test_what_the_kernels_cannot_update_is_left_to_torch(disguised):
    plain, half = torch.ones(8), torch.ones(8, dtype=torch.float16)
    assert native.fits(plain, plain, plain)
    assert native.fits(half, plain, half, buffer=plain)
    assert native.fits(half, plain, plain)
    assert native.fits(half, plain, None)
    assert not native.fits(half, half, half)
    assert not native.fits(plain, plain, half)
    assert not native.fits(plain.double(), plain, plain)
    g, n = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    assert native.fits(plain, plain, plain, g, n, plain)
    unaligned, away = torch.ones(9)[1:], torch.ones(8)
    disguised.elsewhere.add(away.data_ptr())
    for other in (unaligned, away):
        for i in (0, 1, 2, 5):
            tensors = [plain, plain, plain, g, n, plain]
            tensors[i] = other
            assert not native.fits(*tensors)
    for scalar in (g, n):
        disguised.elsewhere.add(scalar.data_ptr())
        assert not native.fits(plain, plain, plain, g, n)
        disguised.elsewhere.discard(scalar.data_ptr())


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

    from directional_pruning.optim.kernels import cuda_kernels as triton_kernels

    types = {"float32": tl.float32, "bfloat16": tl.bfloat16, None: None}
    constants = {"WEIGHT": types[weight], "GRADIENT": types[gradient], "LR_ON_DEVICE": everything}
    constants |= dict.fromkeys(("MOMENTUM", "NESTEROV", "DECAY", "MAXIMIZE"), everything)
    constants |= {"POWER": 4 if gradient is None else 1, "BLOCK": ours._ELEMENTS_PER_BLOCK}
    constants |= {"COLUMNS": ours._COLUMNS, "SIZE": ours._SIZE}
    signature = {"table": "*i64", "thresholds": "*fp32", "block_row": "*i32", "block_start": "*i64"}
    signature |= {"rows": "i32", "lr": "*fp32" if everything else "fp32", "momentum": "fp32", "weight_decay": "fp32"}
    source = ASTSource(triton_kernels.update, signature | dict.fromkeys(constants, "constexpr"), constants)
    assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    # Sixteen bytes at a time where a block is full: the dual read and written, the weight written, and more.
    assert len(re.findall(r"ld\.global\.v4\.b32", assembly)) >= 8
    assert len(re.findall(r"st\.global\.v4\.b32", assembly)) >= 8
    constants = {"LR_ON_DEVICE": everything, "COLUMNS": ours._COLUMNS, "LANES": 128}
    signature = {
        "table": "*i64",
        "thresholds": "*fp32",
        "rows": "i32",
        "lr": signature["lr"],
    }
    signature |= dict.fromkeys(("factor", "factor_rest", "mu", "mu_rest"), "fp32")
    source = ASTSource(triton_kernels.raise_thresholds, signature | dict.fromkeys(constants, "constexpr"), constants)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
