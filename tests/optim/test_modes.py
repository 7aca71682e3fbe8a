"""The ways to compute a step (tensor by tensor, foreach, a kernel, capturable, compiled) give the same numbers."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from directional_pruning import GRDA, Directional, grda

pytestmark = pytest.mark.slow

HYPERPARAMETERS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "everything": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    "sgd": {"c": 0.0, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}
MODES = {
    "foreach": {"foreach": True},
    "capturable": {"capturable": True},
    "capturable foreach": {"capturable": True, "foreach": True},
    "kernel": {"fused": None},
}


def train(options, dtype=torch.float32, compile_with=None, steps=8):
    """Steps on random gradients under a scheduler; two groups, of which one is not pruned."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((70,), (3, 4), (2, 3, 4, 5), ())]
    groups = [{"params": params[:3]}, {"params": params[3:], "c": 0.0}]
    optimizer = GRDA(groups, **{"lr": 0.1, "c": 0.5, "mu": 0.6, "fused": False, **options})
    scheduler = CosineAnnealingLR(optimizer, steps)

    def step():
        optimizer.step()

    if compile_with is not None:
        step = torch.compile(step, backend=compile_with)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype)
        step()
        scheduler.step()
    return params, optimizer


def assert_same(run, reference, **tolerance):
    (params, optimizer), (expected, like) = run, reference
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, **tolerance)
        if "dual" in like.state[q]:
            torch.testing.assert_close(optimizer.state[p]["dual"], like.state[q]["dual"], rtol=1e-6, atol=1e-6)
        assert torch.equal(p == 0, q == 0)
        assert not p[p == 0].signbit().any()
        for key in ("step", "threshold"):
            if key in like.state[q]:
                torch.testing.assert_close(optimizer.state[p][key], like.state[q][key], rtol=1e-12, atol=0)
    if like.defaults["c"] > 0:
        assert any((p == 0).any() for p in params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_every_mode_gives_the_same_numbers(name, mode, dtype):
    options = HYPERPARAMETERS[name]
    # Half precision without a dual rounds in torch's foreach operations where it does not in its plain ones.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype.itemsize > 2 else {"rtol": 2e-2, "atol": 2e-2}
    assert_same(train({**options, **MODES[mode]}, dtype), train(options, dtype), **tolerance)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_pruning_each_mode_is_sgd_in_that_mode_bit_for_bit(foreach, dtype):
    options = {**HYPERPARAMETERS["sgd"], "foreach": foreach}
    params, optimizer = train(options, dtype)
    torch.manual_seed(0)
    expected = [nn.Parameter(torch.randn(p.shape).to(dtype)) for p in params]
    sgd = SGD(expected, lr=0.1, **{name: value for name, value in options.items() if name != "c"})
    scheduler = CosineAnnealingLR(sgd, 8)
    for _ in range(8):
        for p in expected:
            p.grad = torch.randn(p.shape).to(dtype)
        sgd.step()
        scheduler.step()
    assert all(map(torch.equal, params, expected))
    assert optimizer.param_groups[0]["lr"] == sgd.param_groups[0]["lr"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize(
    ("name", "lr", "foreach"),
    [("plain", 0.1, False), ("everything", 0.1, True), ("momentum", "tensor", False), ("sgd", 0.1, True)],
)
def test_a_compiled_step_agrees_and_is_compiled_at_most_twice_while_the_rate_changes(name, lr, foreach):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    options = {**HYPERPARAMETERS[name], "foreach": foreach}

    def rate():
        return torch.tensor(0.1, dtype=torch.float64) if lr == "tensor" else lr

    compiled = train({**options, "lr": rate()}, compile_with=counter)
    assert_same(compiled, train({**options, "lr": rate()}), rtol=1e-6, atol=1e-6)
    # The function around the step leaves an empty graph.
    assert len([graph for graph in counter.graphs if graph.graph.nodes]) == (1 if lr == "tensor" else 2)


def test_a_step_of_a_capturable_optimizer_reads_nothing_on_the_host(monkeypatch):
    _, optimizer = train({"capturable": True, "foreach": True, "momentum": 0.9}, steps=2)
    for group in optimizer.param_groups:
        group["lr"] = 0.1

    def refuse(tensor):
        raise AssertionError("the host waited for the device")

    for read in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, read, refuse)
    optimizer.step()
    optimizer.param_groups[0]["capturable"] = False
    with pytest.raises(AssertionError, match="the host waited"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
def test_a_tensor_rate_of_zero_stops_weights_and_clock_when_compiled():
    params = [nn.Parameter(torch.randn(5))]
    optimizer = GRDA(params, lr=torch.tensor(0.1), c=0.5)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    params[0].grad = torch.ones(5)
    step()
    before, state = params[0].detach().clone(), copy.deepcopy(optimizer.state[params[0]])
    optimizer.param_groups[0]["lr"].zero_()
    step()
    assert torch.equal(params[0], before)
    assert all(torch.equal(optimizer.state[params[0]][key], value) for key, value in state.items())


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
@pytest.mark.parametrize("make", [GRDA, lambda params: Directional(AdamW(params, lr=0.1), c=1.0, mu=0.6)])
def test_a_whole_training_step_can_be_compiled(make):
    torch._dynamo.reset()
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = make([{"params": list(model.parameters()), "lr": 0.1, "c": 1.0, "mu": 0.6}])
        scheduler = CosineAnnealingLR(optimizer, 12)

        def step(inputs, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().mean()
            loss.backward()
            optimizer.step()

        # This backend runs the captured graphs with torch's own operations: no C++ compiler, the same rounding.
        train_step = torch.compile(step, backend="aot_eager") if compiled else step
        inputs = torch.Generator().manual_seed(1)
        for _ in range(10):
            train_step(torch.randn(5, 6, generator=inputs))
            scheduler.step()
        runs.append(list(model.parameters()))
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert any((p == 0).any() for p in runs[1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
def test_the_step_of_a_sharded_network_stays_right_under_compile(tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    torch._dynamo.reset()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        runs = []
        for compiled in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(6, 8)
            fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
            optimizer = GRDA(model.parameters(), lr=0.1, c=1.0, mu=0.6, momentum=0.9)
            step = torch.compile(lambda o=optimizer: o.step(), backend="eager") if compiled else optimizer.step
            for _ in range(5):
                optimizer.zero_grad()
                (model(torch.ones(4, 6)) - 1).square().mean().backward()
                step()
            runs.append([p.to_local().detach().clone() for p in model.parameters()])
    finally:
        dist.destroy_process_group()
    assert all(map(torch.equal, *runs))
    assert (runs[0][0] == 0).any()


@pytest.mark.parametrize("make", [GRDA, lambda params, **options: Directional(SGD(params, **options), c=0.5)])
def test_a_step_that_overflowed_under_a_gradient_scaler_changes_nothing(make):
    w = nn.Parameter(torch.randn(6))
    optimizer, scaler = make([w], lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def train_step(factor):
        optimizer.zero_grad()
        scaler.scale((w * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    train_step(1.0)
    before, state = w.detach().clone(), copy.deepcopy(optimizer.state[w])
    train_step(float("inf"))
    assert torch.equal(w, before)
    assert all(torch.equal(optimizer.state[w][key], value) for key, value in state.items())
    train_step(1.0)
    assert not torch.equal(w, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreach": True, "fused": True}, "invalid fused: True"),
        ({"foreach": "yes"}, "invalid foreach: 'yes'"),
        ({"capturable": 2}, "invalid capturable: 2"),
    ],
)
def test_a_mode_that_does_not_exist_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        GRDA([nn.Parameter(torch.ones(2))], **options)


def test_the_function_can_be_traced_whole():
    torch._dynamo.reset()
    runs = []
    for step in (grda, torch.compile(grda, backend="aot_eager", fullgraph=True)):
        w, v = torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 20)
        g, n = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0)
        for _ in range(2):
            step([w], [torch.ones(20)], [v], [None], [g], [n], lr=0.1, c=1.0, mu=0.6)
        runs.append((w, v, g, n))
    torch.testing.assert_close(*runs)
