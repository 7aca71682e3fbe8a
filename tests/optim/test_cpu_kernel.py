"""The compiled kernel against torch's operations, which are the truth."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional, grda
from directional_pruning.optim import kernels
from directional_pruning.optim.kernels import SGDOptions, launch
from directional_pruning.optim.threshold import cut, raise_threshold, scale_where_zero, soft_threshold

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiler at installation, so no kernel to test")


@pytest.fixture
def many_threads(monkeypatch):
    """Three threads and streaming stores, whatever the machine and however small the tensors."""
    monkeypatch.setattr(launch, "_ELEMENTS_PER_THREAD", 7)
    monkeypatch.setattr(launch, "_STREAMING_ELEMENTS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def update(w, v, d, g):
    """One update at lr 0.5 under a threshold that does not rise."""
    threshold, n = torch.tensor(g, dtype=torch.float64), torch.tensor(0.0)
    assert kernels.update([w], [d], [v], None, [threshold], [n], lr=0.5, c=0.0, mu=0.5) == []
    assert (threshold.item(), n.item()) == (g, 1.0)


def train(fused, params, steps=12, dtype=torch.float32, **options):
    params = [nn.Parameter(p.to(dtype, copy=True)) for p in params]
    optimizer = GRDA(params, lr=0.1, c=1.0, mu=0.6, fused=fused, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            if p.ndim == 4:
                p.grad = p.grad.contiguous(memory_format=torch.channels_last)
        optimizer.step()
    return params, optimizer


SHAPES = [(), (1,), (15,), (16,), (17,), (1023, 3), (5, 4, 3, 3), (0,), (70_001,)]


OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.01},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
    {"maximize": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_and_torchs_operations_agree_at_every_size(many_threads, options, dtype):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    params[6] = params[6].contiguous(memory_format=torch.channels_last)
    kernel, a = train(True, params, dtype=dtype, **options)
    loop, b = train(False, params, dtype=dtype, **options)
    for p, q in zip(kernel, loop, strict=True):
        assert p.stride() == q.stride()
        assert p.dtype == dtype
        # one rounding of bfloat16 where the duals differ in their last bit, which decay then brings to the duals
        rounding = dtype == torch.bfloat16
        torch.testing.assert_close(p, q, rtol=2**-7 if rounding else 1e-5, atol=1e-5)
        atol = 1e-4 if rounding and "weight_decay" in options else 2e-6
        torch.testing.assert_close(a.state[p]["dual"], b.state[q]["dual"], rtol=1e-6, atol=atol)
        if "momentum" in options:
            momenta = (a.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"])
            torch.testing.assert_close(*momenta, rtol=1e-6, atol=atol)
        assert not torch.signbit(p[p == 0]).any()
        for key in ("step", "threshold"):
            torch.testing.assert_close(a.state[p][key], b.state[q][key], rtol=1e-14, atol=0)
    assert 0.1 < sum(int((p == 0).sum()) for p in kernel) / sum(p.numel() for p in kernel) < 0.9


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_call_is_the_formula_in_float64(many_threads, options, gradient, dtype):
    generator = torch.Generator().manual_seed(0)
    w, v, d, b = (torch.randn(1234, generator=generator) for _ in range(4))
    w, d = w.to(dtype), d.to(gradient if dtype == torch.bfloat16 else dtype)
    exact = d.double() * (-1 if "maximize" in options else 1) + options.get("weight_decay", 0) * w.double()
    buffer, velocity = None, exact
    if "momentum" in options:
        buffer = b.clone()
        velocity = 0.9 * b.double() + exact
        exact = exact + 0.9 * velocity if "nesterov" in options else velocity
    dual = v.double() - 0.5 * exact
    g, n = torch.tensor(0.3, dtype=torch.float64), torch.tensor(4.0)
    sgd = SGDOptions(**options)
    assert kernels.update([w], [d], [v], [buffer], [g], [n], lr=0.5, c=0.2, mu=0.7, sgd=sgd) == []
    assert n.item() == 5
    assert g.item() == pytest.approx(0.3 + 0.2 * 0.5**1.2 * (5**0.7 - 4**0.7), rel=1e-15)
    torch.testing.assert_close(v.double(), dual, rtol=1e-6, atol=1e-6)
    expected = dual - dual.clamp(-g.item(), g.item())
    torch.testing.assert_close(w.double(), expected, rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=1e-6)
    if buffer is not None:
        torch.testing.assert_close(buffer.double(), velocity, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4]], ids=str)
@pytest.mark.parametrize("factor", [0.25, 1.0])
@pytest.mark.parametrize("power", launch.POWERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_a_target_one_call_is_the_formula_in_float64(many_threads, options, factor, power, dtype):
    generator = torch.Generator().manual_seed(0)
    w, v, d = (torch.randn(1234, generator=generator) for _ in range(3))
    g, n, sgd = torch.tensor(0.7, dtype=torch.float64), torch.tensor(4.0), SGDOptions(**options)
    w, d = torch.where(v.abs() <= g, 0.0, w).to(dtype), d.to(dtype)
    buffer = torch.zeros(1234) if sgd.momentum else None
    exact = torch.where(v.abs() <= g, factor, 1.0) * d.double() * (-1 if sgd.maximize else 1)
    exact = (exact + sgd.weight_decay * w.double()) * (1 + (sgd.momentum if sgd.nesterov else 0))
    dual = v.double() - 0.5 * exact
    scaled = d.clone()
    assert kernels.scale_gradients([w], [scaled], [v], [g], [n], factor=factor) == []
    assert torch.equal(scaled, scale_where_zero(d, v, 0.7, factor))
    law = {"power": power, "gradient_of_zeros": factor}
    assert kernels.update([w], [d], [v], [buffer], [g], [n], lr=0.5, c=0.0, mu=0.7, sgd=sgd, **law) == []
    torch.testing.assert_close(v.double(), dual, rtol=1e-6, atol=1e-6)
    expected = torch.where(dual.abs() <= 0.7, 0.0, dual * (1 - (0.7 / dual.abs()) ** power))
    torch.testing.assert_close(w.double(), expected, rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=1e-5)
    assert torch.equal(w == 0, v.abs() <= 0.7)
    assert not w[w == 0].signbit().any()
    # The same bits by every way, or the dual would move where no gradient moves it.
    made, dual = torch.full_like(w, 7.0), v.clone()
    assert kernels.make_weights([made], [v], [g], [n], power=power) == []
    assert torch.equal(made, w)
    assert kernels.update([w], None, [dual], None, [g], [n], lr=0.5, c=0.0, mu=0.7, power=power) == []
    assert torch.equal(w, made)
    assert torch.equal(dual, v)


@pytest.mark.parametrize("offset", range(0, 40, 3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_made_at_every_alignment_and_nothing_beside_them(many_threads, offset, dtype):
    memory = torch.full((600,), 7.0, dtype=dtype)
    w, v = memory[offset : offset + 500], torch.linspace(-3, 3, 500)
    g, n, expected = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0), torch.empty(500, dtype=dtype)
    cut(v, 1.0, 8, out=expected)
    assert kernels.make_weights([w], [v], [g], [n], power=8) == []
    torch.testing.assert_close(w, expected)
    assert (memory == 7.0).sum() == 100


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_streaming_stores_do_not_change_a_bit(many_threads, monkeypatch, options, dtype):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    several, _ = train(True, params, dtype=dtype, **options)
    monkeypatch.undo()
    torch.set_num_threads(1)
    one, _ = train(True, params, dtype=dtype, **options)
    assert all(torch.equal(p, q) for p, q in zip(several, one, strict=True))


@pytest.mark.parametrize("offset", range(1, 33))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_at_every_alignment_are_updated_and_nothing_beside_them(many_threads, offset, dtype):
    memory = [torch.full((600,), 7.0, dtype=kind) for kind in (dtype, torch.float32, dtype)]
    w, v, d = (row[offset : offset + 500] for row in memory)
    d.copy_(torch.linspace(-3, 3, 500))
    expected = 7.0 - 0.5 * d.float()
    update(w, v, d, 6.9)
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=1e-6)
    rtol = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(w.float(), expected - expected.clamp(-6.9, 6.9), rtol=rtol, atol=2e-6)
    for row in memory:
        assert (row[:offset] == 7).all()
        assert (row[offset + 500 :] == 7).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_kernel_never_turns_a_bad_gradient_into_a_zero(many_threads, bad):
    w, v, d = torch.ones(40), torch.ones(40), torch.zeros(40)
    d[[0, 21, 39]] = bad
    update(w, v, d, 10.0)
    assert torch.isfinite(w).nonzero().flatten().tolist() == [i for i in range(40) if i not in (0, 21, 39)]
    assert (w[torch.isfinite(w)] == 0).all()


def test_bfloat16_is_rounded_as_torch_rounds_it():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator, dtype=torch.int64)
    v = bits.to(torch.int32).view(torch.float32)  # every kind of float: tiny, huge, infinite, NaN
    v[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), torch.finfo(torch.float32).max])  # ties, overflow
    w = torch.zeros(len(v), dtype=torch.bfloat16)
    expected = v - v.clamp(-1.0, 1.0)
    update(w, v, torch.zeros_like(w), 1.0)
    rounded = expected.to(torch.bfloat16)
    assert torch.equal(w.isnan(), rounded.isnan())
    kept = ~rounded.isnan()
    assert torch.equal(w[kept].view(torch.int16), rounded[kept].view(torch.int16))


def test_a_survivor_too_small_for_bfloat16_is_plus_zero():
    smallest = 2.0**-149
    w, v = torch.ones(40, dtype=torch.bfloat16), torch.full((40,), -3 * smallest)
    update(w, v, torch.zeros_like(w), smallest)
    assert (w == 0).all()
    assert not torch.signbit(w).any()


def bits(t):
    return t.view(torch.int32 if t.dtype == torch.float32 else torch.int16)[~t.isnan()]


def assert_same_bits(a, b):
    assert torch.equal(a.isnan(), b.isnan())
    assert torch.equal(bits(a), bits(b))


def follow_with_torch(w, v, g, n, lr, c, mu):
    """What Directional does to the dual of weights that its base has moved, with torch's operations."""
    before = torch.empty_like(w)
    soft_threshold(v, g.item(), out=before)
    v.add_(torch.sub(w, before, out=before))
    soft_threshold(v, raise_threshold(g, n, lr, c, mu), out=w)


@pytest.mark.parametrize("shape", [(1,), (33,), (1023,), (6, 5, 3, 3), (70_001,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_another_optimizer_the_kernel_is_torchs_operations_to_the_bit(many_threads, dtype, shape):
    generator = torch.Generator().manual_seed(0)
    odd = torch.tensor([-0.0, 1e-41, -1e-41, 0.0, float("inf"), -float("inf"), float("nan")])

    def values(kinds):
        flat = torch.randn(torch.Size(shape).numel(), generator=generator)
        if len(flat) > 40:
            flat[:kinds] = odd[:kinds]
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return flat.view(shape).contiguous(memory_format=layout)

    ours = [values(7).to(dtype), values(6), torch.tensor(0.3, dtype=torch.float64), torch.tensor(3.0)]
    theirs = [t.clone() for t in ours]
    for step in range(5):
        moved = values(step).to(dtype)
        for w in (ours[0], theirs[0]):
            w.add_(moved)
        w, v, g, n = ours
        assert kernels.update([w], None, [v], None, [g], [n], lr=0.1, c=0.3, mu=0.6) == []
        follow_with_torch(*theirs, lr=0.1, c=0.3, mu=0.6)
        for a, b in zip(ours[:2], theirs[:2]):
            assert_same_bits(a, b)
        assert ours[2:] == theirs[2:]
    assert not torch.signbit(w[w == 0]).any()
    assert w.numel() < 40 or 0.1 < (w == 0).float().mean() < 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directional_is_the_same_to_the_bit_with_and_without_the_kernel(many_threads, monkeypatch, dtype):
    def end(compiled):
        rows = []
        with monkeypatch.context() as patch:
            patch.setattr(launch, "_native", compiled)
            on_cpu = launch.update_on_cpu
            patch.setattr(launch, "update_on_cpu", lambda *args: (rows.append(len(args[1]) // 80), on_cpu(*args)))
            generator = torch.Generator().manual_seed(0)
            params = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in ((70, 11), (5, 4, 3, 3))]
            optimizer = Directional(AdamW(params, lr=0.1), c=1.0, mu=0.6)
            for step in range(5):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                optimizer.param_groups[0]["lr"] = 0.0 if step == 3 else 0.1
                optimizer.step()
        return [t for p in params for t in (p.detach(), *optimizer.state[p].values())], rows

    (ours, by_kernel), (theirs, by_torch) = end(launch._native), end(None)
    # Both tensors go to the kernel at once. The first update makes the dual; at a rate of zero there is no update.
    assert (by_kernel, by_torch) == ([2, 2, 2], [])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(torch.signbit(a), torch.signbit(b))


class Marked(torch.Tensor):
    """A tensor of another type, whose memory may mean something else."""


def odd(dtype=torch.float32):
    """A scalar that begins between two numbers."""
    return torch.frombuffer(bytearray(dtype.itemsize + 1), dtype=dtype, offset=1).view(())


def takes(w, v, d, g=None, n=None, buffer=None, *, lr=0.0):
    """Whether the kernel updates such tensors; an update at this rate, without pruning, moves nothing but n."""
    g = torch.tensor(0.0, dtype=torch.float64) if g is None else g
    n = torch.tensor(0.0) if n is None else n
    grads, buffers = None if d is None else [d], None if buffer is None else [buffer]
    before = n.clone()
    rest = kernels.update([w], grads, [v], buffers, [g], [n], lr=lr, c=0.0, mu=0.5)
    assert torch.equal(n, before) == (rest == [0])
    return rest == []


def test_what_the_kernel_cannot_update_is_left_to_torch():
    plain = torch.ones(4, 4)
    assert takes(plain, plain, plain)
    half = plain.bfloat16()
    assert takes(half, plain, half)
    assert takes(half, plain, plain)
    assert takes(half, plain, None)
    assert not takes(half, half, half)
    assert not takes(plain, plain, half)
    for other in (plain.double(), plain.half(), plain.t(), torch.ones(8, 8)[::2, ::2], plain.to_sparse()):
        assert not takes(other, plain, plain)
        assert not takes(plain, plain, other)
    strided = torch.ones(8, 8)[::2, ::2]
    between = torch.frombuffer(bytearray(4 * 16 + 1), dtype=torch.float32, count=16, offset=1).view(4, 4)
    for other in (strided, between):
        assert not takes(other, other, other)
    broadcast, negated = torch.ones(1), torch._neg_view(plain)
    zero = torch._efficientzerotensor((4, 4))
    for gradient in (broadcast, negated, zero, torch.ones(4, 5)):
        assert not takes(plain, plain, gradient)
    double, single = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    assert takes(plain, plain, plain, double, single)
    assert not takes(plain, plain, plain, single, single)
    assert not takes(plain, plain, plain, double, double)
    assert takes(half, plain, half, double, single, plain)
    for scalars in (
        (double.expand(2), single),
        (double, single.expand(2)),
        (odd(torch.float64), single),
        (double, odd()),
    ):
        assert not takes(plain, plain, plain, *scalars)
    for i in range(3):
        assert not takes(*(Marked(plain) if j == i else plain for j in range(3)))
    assert not takes(plain, plain, plain, lr=torch.tensor(0.1))
    for buffer in (half, plain.t(), torch.ones(4, 5), between):
        assert not takes(half, plain, half, double, single, buffer)


def test_of_a_list_the_kernel_updates_what_it_can_and_names_the_others():
    ws = [torch.ones(4), torch.ones(4, dtype=torch.float64), torch.ones(3), torch.ones(2)]
    vs = [torch.ones(4), torch.ones(4), None, torch.ones(2)]
    gs = [None if v is None else torch.tensor(0.0, dtype=torch.float64) for v in vs]
    ns = [torch.tensor(0.0) for _ in ws]
    rest = kernels.update(ws, [torch.ones_like(w) for w in ws], vs, None, gs, ns, lr=0.5, c=0.0, mu=0.5)
    assert rest == [1, 2]
    assert [n.item() for n in ns] == [1, 0, 0, 1]
    assert [w.unique().item() for w in ws] == [0.5, 1, 1, 0.5]
    with pytest.raises(ValueError, match="the lists have different lengths"):
        kernels.update(ws, ws[:3], vs, None, gs, ns, lr=0.5, c=0.0, mu=0.5)


@pytest.mark.parametrize("which", ["weights", "dual", "buffer"])
def test_negated_views_are_updated_as_what_they_show(which):
    w, v, buffer = (torch.linspace(-2, 2, 40) for _ in range(3))
    negated = {"weights": w, "dual": v, "buffer": buffer}
    negated[which] = torch._neg_view(-negated[which])
    ends = []
    for tensors in ((w, v, buffer), tuple(negated.values())):
        a, b, m = (t if t.is_neg() else t.clone() for t in tensors)
        g, n = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
        grda([a], [torch.ones(40)], [b], [m], [g], [n], lr=0.25, c=0.5, mu=1.0, momentum=0.5)
        ends.append((a, b, m))
    for plain, shown in zip(*ends, strict=True):
        torch.testing.assert_close(shown.clone(), plain)


def test_layouts_are_told_apart_by_the_order_in_memory():
    image, last = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert takes(last, last, last)
    for i in range(4):
        others = [last if j == i else image for j in range(4)]
        assert not takes(others[0], others[1], others[2], buffer=others[3])
        others = [image if j == i else last for j in range(4)]
        assert not takes(others[0], others[1], others[2], buffer=others[3])
    # Where both orders are one, whatever the strides say.
    pointwise = torch.ones(2, 3, 1, 1)
    assert takes(pointwise, pointwise, pointwise.as_strided((2, 3, 1, 1), (3, 1, 3, 3)))


@pytest.mark.parametrize("layout", ["transposed", "permuted", "channels_last_3d"])
def test_parameters_in_any_dense_layout_are_updated_by_the_kernel(layout):
    plain = torch.randn(4, 3, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    p = {
        "transposed": lambda: plain.view(12, 60).t(),
        "permuted": lambda: plain.view(12, 10, 6).permute(1, 2, 0),
        "channels_last_3d": lambda: plain.contiguous(memory_format=torch.channels_last_3d),
    }[layout]()
    ends = []
    for fused in (True, False):
        w = nn.Parameter(p.clone())
        assert w.stride() == p.stride()
        assert kernels.can_update(w)
        optimizer = GRDA([w], lr=0.1, c=1.0, fused=fused)
        for step in range(3):
            w.grad = (w.detach() * step).clone()
            optimizer.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends)
    assert 0 < (ends[0] == 0).sum() < p.numel()


def test_gradients_that_only_look_like_tensors_of_floats_are_still_applied():
    for make in (lambda t: torch._neg_view(-t), lambda t: torch._efficientzerotensor(t.shape), lambda t: t):
        w = nn.Parameter(torch.ones(4))
        w.grad = make(torch.ones(4))
        slope = w.grad[0].item()
        GRDA([w], lr=0.5, c=0.1, mu=1.0).step()
        torch.testing.assert_close(w.detach(), torch.full((4,), 1 - 0.5 * slope - 0.1 * 0.5**1.5))


def test_fused_true_refuses_by_name_what_it_cannot_update():
    with pytest.raises(
        ValueError,
        match=r"fused=True needs densely laid out .* float32 or bfloat16 .*, but table is torch\.float16 on cpu",
    ):
        GRDA([("table", nn.Parameter(torch.ones(2, dtype=torch.float16)))], fused=True)


def test_without_a_compiler_training_is_the_same_and_fused_true_says_why(monkeypatch):
    params = [torch.linspace(-1, 1, 50)]
    with_kernel, _ = train(None, params)
    monkeypatch.setattr(launch, "_native", None)
    without, _ = train(None, params)
    torch.testing.assert_close(with_kernel[0], without[0], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="the compiled kernel, which is not installed"):
        GRDA([nn.Parameter(params[0])], fused=True)


def test_autograd_notices_the_kernels_change():
    w = nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer = GRDA([w], lr=0.1, c=0.1, momentum=0.9, fused=True)
    optimizer.step()
    state = optimizer.state[w]
    for t in (w.detach(), state["dual"], state["momentum_buffer"]):
        loss = (torch.ones(3, requires_grad=True) * t).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_buffer_that_is_missing_or_not_asked_for_is_no_error_and_autograd_notices_its_change(momentum):
    ws = [torch.ones(4) for _ in range(2)]
    vs, buffers = [torch.ones(4) for _ in ws], [torch.zeros(4), None]
    gs, ns = [torch.tensor(0.0, dtype=torch.float64) for _ in ws], [torch.tensor(0.0) for _ in ws]
    grda(ws, [torch.ones(4) for _ in ws], vs, buffers, gs, ns, lr=0.5, c=0.0, mu=0.5, momentum=momentum)
    assert [w.tolist() for w in ws] == [[0.5] * 4] * 2
    assert [n.item() for n in ns] == [1, 1]
    assert all(t._version > 0 for t in (*ws, *vs, buffers[0]))


class Interrupted(torch.overrides.TorchFunctionMode):
    """Ctrl-C while a gradient is read."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == torch.Tensor.grad.__get__:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def test_a_step_that_is_interrupted_while_it_reads_the_gradients_has_moved_nothing():
    params = [nn.Parameter(torch.ones(4)) for _ in range(3)]
    optimizer = GRDA(params, lr=0.5, c=0.0001)
    for p in params:
        p.grad = torch.ones(4)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    with Interrupted(), pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert all(map(torch.equal, params, before))
    assert all(optimizer.state[p]["step"] == 1 for p in params)
    optimizer.param_groups[0]["params"] = tuple(params)
    optimizer.step()
    assert all(optimizer.state[p]["step"] == 2 for p in params)


def test_a_step_on_the_cpu_does_not_ask_for_cuda(monkeypatch):
    def asked():
        raise AssertionError

    w = nn.Parameter(torch.ones(4))
    w.grad = torch.ones(4)
    monkeypatch.setattr(torch.cuda, "is_available", asked)
    for optimizer in (GRDA([w], lr=0.5), Directional(SGD([w], lr=0.5))):
        for _ in range(2):
            optimizer.step()
    assert (w < 1).all()


def test_with_a_torch_that_can_only_be_asked_otherwise_its_operations_are_used(monkeypatch):
    class Elsewhere(torch.Tensor):
        __dlpack_c_exchange_api__ = None

    monkeypatch.setattr(torch, "Tensor", Elsewhere)
    monkeypatch.setattr(launch, "import_module", lambda *_: SimpleNamespace(connect=connect))

    def connect(capsule, *_):
        assert capsule is None
        raise ImportError

    assert launch._load() is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_the_kernel_waits_for_no_thread_that_is_not_there(many_threads):
    parent, child, inherited = (torch.ones(100_000).share_memory_() for _ in range(3))
    update(parent, torch.ones(100_000), torch.ones(100_000), 0.1)
    duals, gradients = torch.ones(2, 100_000), torch.ones(100_000)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends a child that waits for ever
        update(child, duals[0], gradients, 0.1)
        torch.set_num_threads(1)  # as a worker of a DataLoader does
        update(inherited, duals[1], gradients, 0.1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert torch.equal(child, parent)
    assert torch.equal(inherited, parent)
    again = torch.ones(100_000)
    update(again, duals[0], gradients, 0.1)
    assert torch.equal(again, parent)
