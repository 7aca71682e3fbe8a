"""The compiled kernel against torch's operations, which are the truth."""

import pytest
import torch
from torch import nn

from directional_pruning import GRDA
from directional_pruning.optim import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no compiler at installation, so no kernel to test")


@pytest.fixture
def many_threads(monkeypatch):
    """Three threads and streaming stores, whatever the machine and however small the tensors."""
    monkeypatch.setattr(native, "_ELEMENTS_PER_THREAD", 7)
    monkeypatch.setattr(native, "_STREAMING_ELEMENTS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def update(w, v, d, g):
    """One update at lr 0.5 under a threshold that does not rise."""
    threshold, n = torch.tensor(g, dtype=torch.float64), torch.tensor(0.0)
    batch = native.Batch(lr=0.5, c=0.0, mu=0.5)
    batch.add(w, v, d, threshold, n)
    batch.flush()
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


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.01}, {"maximize": True}], ids=str)
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
        # one rounding of bfloat16 where the duals differ in their last bit
        torch.testing.assert_close(p, q, rtol=1e-6 if dtype == torch.float32 else 2**-7, atol=1e-6)
        torch.testing.assert_close(a.state[p]["dual"], b.state[q]["dual"], rtol=1e-6, atol=1e-6)
        assert not torch.signbit(p[p == 0]).any()
        for key in ("step", "threshold"):
            torch.testing.assert_close(a.state[p][key], b.state[q][key], rtol=1e-14, atol=0)
    assert 0.1 < sum(int((p == 0).sum()) for p in kernel) / sum(p.numel() for p in kernel) < 0.9


def test_threads_and_streaming_stores_do_not_change_a_bit(many_threads, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    several, _ = train(True, params)
    monkeypatch.undo()
    torch.set_num_threads(1)
    one, _ = train(True, params)
    assert all(torch.equal(p, q) for p, q in zip(several, one, strict=True))


@pytest.mark.parametrize("offset", range(1, 17))
def test_views_at_every_alignment_are_updated_and_nothing_beside_them(many_threads, offset):
    memory = torch.full((3, 200), 7.0)
    w, v, d = (row[offset : offset + 150] for row in memory)
    d.copy_(torch.linspace(-3, 3, 150))
    update(w, v, d, 6.9)
    expected = 7.0 - 0.5 * torch.linspace(-3, 3, 150)
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(w, expected - expected.clamp(-6.9, 6.9), rtol=1e-6, atol=2e-6)
    assert (memory[:, :offset] == 7).all()
    assert (memory[:, offset + 150 :] == 7).all()


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


def test_what_the_kernel_cannot_update_is_left_to_torch():
    plain = torch.ones(4, 4)
    assert native.fits(plain, plain, plain)
    half = plain.bfloat16()
    assert native.fits(half, plain, half)
    assert native.fits(half, plain, plain)
    assert not native.fits(half, half, half)
    assert not native.fits(plain, plain, half)
    for other in (plain.double(), plain.half(), plain.t(), torch.ones(8, 8)[::2, ::2], plain.to_sparse()):
        assert not native.fits(other, plain, plain)
        assert not native.fits(plain, plain, other)
    strided = torch.ones(8, 8)[::2, ::2]
    between_floats = torch.frombuffer(bytearray(4 * 16 + 1), dtype=torch.float32, count=16, offset=1).view(4, 4)
    for other in (strided, between_floats):
        assert not native.fits(other, other, other)
    broadcast, negated = torch.ones(1), torch._neg_view(plain)
    zero = torch._efficientzerotensor((4, 4))
    for gradient in (broadcast, negated, zero, torch.ones(4, 5)):
        assert not native.fits(plain, plain, gradient)
    double, single = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
    assert native.fits(plain, plain, plain, double, single)
    assert not native.fits(plain, plain, plain, single, single)
    assert not native.fits(plain, plain, plain, double, double)


def test_gradients_that_only_look_like_tensors_of_floats_are_still_applied():
    for make in (lambda t: torch._neg_view(-t), lambda t: torch._efficientzerotensor(t.shape), lambda t: t):
        w = nn.Parameter(torch.ones(4))
        w.grad = make(torch.ones(4))
        slope = w.grad[0].item()
        GRDA([w], lr=0.5, c=0.1, mu=1.0).step()
        torch.testing.assert_close(w.detach(), torch.full((4,), 1 - 0.5 * slope - 0.1 * 0.5**1.5))


def test_fused_true_refuses_by_name_what_the_kernel_cannot_update():
    with pytest.raises(
        ValueError, match=r"fused=True needs contiguous float32 or .*, but table is torch\.float16 on cpu"
    ):
        GRDA([("table", nn.Parameter(torch.ones(2, dtype=torch.float16)))], fused=True)


def test_without_a_compiler_training_is_the_same_and_fused_true_says_why(monkeypatch):
    params = [torch.linspace(-1, 1, 50)]
    with_kernel, _ = train(None, params)
    monkeypatch.setattr(native, "_native", None)
    without, _ = train(None, params)
    torch.testing.assert_close(with_kernel[0], without[0], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="not compiled at installation"):
        GRDA([nn.Parameter(params[0])], fused=True)


def test_autograd_notices_the_kernels_change():
    w = nn.Parameter(torch.ones(3))
    loss = (w * w).sum()
    w.grad = torch.ones(3)
    GRDA([w], lr=0.1, c=0.1, fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
