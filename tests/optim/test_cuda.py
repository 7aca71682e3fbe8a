"""What only a CUDA device can show; skipped where there is none."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional
from directional_pruning.optim import kernels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = [(5000,), (64, 3, 7, 7), (3,), (64, 65), ()]


def train(options, device, dtype=torch.float32, steps=6):
    """Steps on random gradients made on the CPU, so that every device sees the same."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(device, dtype)) for shape in SHAPES]
    optimizer = GRDA(params, **{"lr": 0.1, "c": 0.5, "mu": 0.6, **options})
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape).to(device, dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "mode", [{"fused": True}, {"fused": False}, {"fused": False, "foreach": False}, {"capturable": True}]
)
def test_every_mode_on_cuda_gives_the_numbers_of_the_cpu(mode, dtype, options):
    params, optimizer = train({**options, **mode}, "cuda", dtype)
    expected, like = train({**options, "fused": False}, "cpu", dtype)
    for p, q in zip(params, expected, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(p.cpu(), q, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(optimizer.state[p]["threshold"].cpu(), like.state[q]["threshold"], rtol=1e-9, atol=0)
        assert not p[p == 0].signbit().any()
    assert (params[0] == 0).any()


def test_the_kernel_is_the_default_and_launches_twice():
    params, optimizer = train({}, "cuda")
    assert kernels.available(cuda_too=True)
    assert optimizer.state[params[0]]["threshold"].is_cuda
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    launched = [event.key for event in profile.key_averages() if "Mem" not in event.key]
    assert len(launched) == 2


@pytest.mark.parametrize("options", [{}, {"foreach": True, "fused": False}, {"momentum": 0.9}])
def test_a_cuda_graph_holds_the_step_while_a_tensor_rate_changes(options):
    runs = []
    for graphed in (False, True):
        params, optimizer = train(
            {**options, "capturable": True, "lr": torch.tensor(0.1, device="cuda")}, "cuda", steps=3
        )
        lr = optimizer.param_groups[0]["lr"]
        grads = [torch.ones_like(p) for p in params]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        step = optimizer.step
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()  # recorded, not run
            step = graph.replay
        for rate in (0.1, 0.05, 0.0, 0.02):
            lr.fill_(rate)
            step()
        runs.append((params, optimizer))
    (plain, first), (replayed, second) = runs
    for p, q in zip(plain, replayed, strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(first.state[p], second.state[q])


@pytest.mark.parametrize("make", [GRDA, lambda params, **options: Directional(SGD(params, **options), c=0.5)])
def test_a_gradient_scaler_skips_an_overflowed_step(make):
    w = nn.Parameter(torch.randn(6, device="cuda"))
    optimizer, scaler = make([w], lr=0.1), torch.amp.GradScaler("cuda", init_scale=1024.0)
    for factor, moves in ((1.0, True), (float("inf"), False), (1.0, True)):
        before, clocks = w.detach().clone(), copy.deepcopy(optimizer.state[w])
        optimizer.zero_grad()
        scaler.scale((w * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(w, before) != moves
        if not moves:
            torch.testing.assert_close(optimizer.state[w], clocks)


def test_a_compiled_step_agrees():
    params, optimizer = train({"momentum": 0.9}, "cuda", steps=2)
    expected, like = train({"momentum": 0.9}, "cuda", steps=2)
    step = torch.compile(lambda: optimizer.step())
    for _ in range(4):
        for p, q in zip(params, expected, strict=True):
            p.grad = torch.ones_like(p)
            q.grad = torch.ones_like(q)
        step()
        like.step()
        for group in (*optimizer.param_groups, *like.param_groups):
            group["lr"] *= 0.9
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_directional_over_fused_adamw_agrees_with_the_cpu():
    runs = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape).to(device)) for shape in SHAPES]
        optimizer = Directional(AdamW(params, lr=0.1, fused=True), c=1.0, mu=0.6)
        for _ in range(6):
            for p in params:
                p.grad = torch.randn(p.shape).to(device)
            optimizer.step()
        runs.append([p.detach().cpu() for p in params])
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-4)
    assert (runs[1][0] == 0).any()


def test_a_state_saved_on_cuda_goes_on_on_the_cpu():
    params, optimizer = train({}, "cuda")
    like = [nn.Parameter(p.detach().cpu()) for p in params]
    other = GRDA(like, lr=0.1, c=0.5, mu=0.6)
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, like, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    other.step()
    for p, q in zip(params, like, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-6, atol=1e-6)
        assert other.state[q]["threshold"].device.type == "cpu"


def test_what_the_kernels_cannot_update_is_left_to_torch():
    def takes(w, d, n=None, g=None):
        v = torch.ones_like(w, dtype=torch.float32)
        n = torch.tensor(0.0, device="cuda") if n is None else n
        g = torch.tensor(0.0, device="cuda", dtype=torch.float64) if g is None else g
        return kernels.update([w], [d], [v], None, [g], [n], lr=0.0, c=0.0, mu=0.5) == []

    plain = torch.ones(8, device="cuda")
    half = plain.half()
    assert takes(plain, plain.clone())
    assert takes(half, half.clone())
    assert takes(half, plain)
    assert not takes(plain, half)
    assert not takes(plain.double(), plain)
    assert not takes(plain, torch.ones(9, device="cuda")[1:])  # not aligned to 16 bytes
    assert not takes(torch.ones(9, device="cuda")[1:], plain)
    assert not takes(plain, plain.cpu())
    assert not takes(plain, plain.clone(), n=torch.tensor(0.0))
    assert not takes(plain, plain.clone(), g=torch.tensor(0.0, dtype=torch.float64))
