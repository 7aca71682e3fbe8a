"""The monitor: its counts are exact, it warns once of what went wrong, and it is silent in ordinary training."""

import ast
import copy
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist
from programs import Program
from torch import nn
from torch.optim import SGD, AdamW

from directional_pruning import GRDA, Directional, SparsityMonitor, Target, freeze_zeros, prunable_groups
from directional_pruning.sparsity import monitor as module

NAMES = ("0.weight", "2.weight")
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(2))


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)


def grda(model, c=0.02, lr=0.1):
    return GRDA(prunable_groups(model), lr=lr, c=c)


def directional(model, c=1.0, lr=0.01):
    return Directional(AdamW(prunable_groups(model), lr=lr), c=c)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X.to(model[0].weight.dtype)), Y).backward()
        optimizer.step()


def zeros(model):
    return torch.cat([(dict(model.named_parameters())[name] == 0).flatten() for name in NAMES])


def messages(caught):
    assert all(issubclass(each.category, UserWarning) for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [grda, directional])
def test_zeros_revivals_and_threshold_are_those_of_the_network(make, dtype):
    model = network(dtype)
    optimizer = make(model)
    with SparsityMonitor(model, optimizer, interval=10) as monitor:
        train(model, optimizer, 10)
        before = zeros(model)
        train(model, optimizer, 10)
        now = zeros(model)
        expected = {
            "sparsity_pruned": float(now.double().mean()),
            "revivals": float((before & ~now).sum()),
            "threshold": max(float(state["threshold"]) for state in optimizer.state.values() if "dual" in state),
            "dead_layers": 0.0,
            "dead_rows": float(sum((model[i].weight == 0).all(1).sum() for i in (0, 2))),
        }
        assert monitor.metrics() == pytest.approx(expected)
        assert 0 < expected["sparsity_pruned"] < 1
        assert expected["revivals"] > 0
        assert monitor.metrics() == pytest.approx(expected)  # reading changes nothing
        assert all(type(value) is float for value in monitor.metrics().values())
        layers = monitor.metrics(layers=True)
    for i, name in ((0, "0.weight"), (2, "2.weight")):
        assert layers[f"sparsity_pruned/{name}"] == pytest.approx(float((model[i].weight == 0).double().mean()))


def test_metrics_between_two_looks_look_too():
    model = network()
    optimizer = grda(model)
    monitor = SparsityMonitor(model, optimizer)
    train(model, optimizer, 7)
    before = zeros(model)
    assert monitor.metrics()["revivals"] == 0
    train(model, optimizer, 5)
    assert monitor.metrics()["revivals"] == float((before & ~zeros(model)).sum())
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.warns(UserWarning, match=r"layer 0\.weight: all 512 weights are zero after step 12$"):
        metrics = monitor.metrics(layers=True)
    assert metrics["sparsity_pruned/0.weight"] == 1  # as it is now, not as it was at the step


@pytest.mark.parametrize("make", [grda, directional])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_threshold_above_every_weight_is_said_once_at_the_callers_line(make, dtype):
    model = network(dtype)
    optimizer = make(model, c=100.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with SparsityMonitor(model, optimizer, interval=10):
            train(model, optimizer, 40)
    (message,) = messages(caught)
    assert message.startswith("every pruned layer: all 640 weights are zero after step 10: the threshold ")
    assert message.endswith("; use a smaller c")
    assert "is larger than every |v| (at most " in message
    assert caught[0].filename == __file__


def test_under_a_target_the_advice_is_about_the_target():
    model = network()
    optimizer = GRDA(prunable_groups(model), lr=0.1, target=Target(1 - 1e-9, steps=10))
    with (
        pytest.warns(UserWarning, match="; use a smaller sparsity of the target"),
        SparsityMonitor(model, optimizer, interval=np.int64(10)),
    ):
        train(model, optimizer, 10)


@pytest.mark.parametrize("make", [GRDA, lambda groups, lr, target: Directional(SGD(groups, lr), target=target)])
def test_an_end_before_the_target_is_reached_is_said(make):
    model = network()
    optimizer = make(prunable_groups(model), lr=0.1, target=Target(0.5, steps=1000))
    message = r"stopped before the target of 50 % zeros is reached: 10 of its 1,000 steps were made"
    with pytest.warns(UserWarning, match=message), SparsityMonitor(model, optimizer, interval=5):
        train(model, optimizer, 10)
    for steps in (5, 10, 13):  # from three quarters of its steps on, a target is reached
        model = network()
        optimizer = make(prunable_groups(model), lr=0.1, target=Target(0.5, steps=steps))
        with SparsityMonitor(model, optimizer, interval=5):
            train(model, optimizer, 10)


def test_one_dead_layer_is_named_and_a_bias_of_zeros_is_not():
    model = network()
    with torch.no_grad():
        model[0].bias.zero_()
    groups = [{"params": [model[0].weight], "c": 10.0}, {"params": [model[0].bias, *model[2].parameters()], "c": 1e-6}]
    optimizer = GRDA(groups, lr=0.1)
    monitor = SparsityMonitor(model, optimizer, interval=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, 9)
    (message,) = messages(caught)
    assert message.startswith("layer 0.weight: all 512 weights are zero after step 3: the threshold ")
    assert monitor.metrics()["dead_layers"] == 1
    assert monitor.metrics()["dead_rows"] == 32


def test_the_step_is_the_optimizers_own_after_a_resume():
    model = network()
    optimizer = grda(model)
    train(model, optimizer, 5)
    optimizer.param_groups[0]["c"] = 100.0
    SparsityMonitor(model, optimizer, interval=2)
    with pytest.warns(UserWarning, match="after step 7: the threshold"):
        train(model, optimizer, 2)


def test_a_layer_that_begins_with_zeros_has_time_to_leave_them():
    model = network()
    nn.init.zeros_(model[2].weight)
    optimizer = grda(model, c=0.02)
    SparsityMonitor(model, optimizer, interval=1)
    train(model, optimizer, 20)  # silent
    model = network()
    nn.init.zeros_(model[2].weight)
    optimizer = grda(model, c=100.0)
    optimizer.param_groups[0]["params"] = [model[2].weight]
    SparsityMonitor(model, optimizer, interval=50)
    train(model, optimizer, 99)
    with pytest.warns(UserWarning, match=r"layer 2\.weight: all 128 weights are zero after step 100"):
        train(model, optimizer, 1)


def test_weights_that_are_not_finite_are_said_once():
    model = network()
    optimizer = grda(model)
    SparsityMonitor(model, optimizer, interval=5)
    train(model, optimizer, 4)
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)
    with pytest.warns(UserWarning, match=r"is not finite after step 5.*; use a smaller lr") as caught:
        train(model, optimizer, 10)
    assert len(caught) == 1


def test_no_zeros_are_said_at_the_end_only_and_not_where_c_is_zero():
    model = network()
    optimizer = grda(model, c=1e-9)
    monitor = SparsityMonitor(model, optimizer, interval=5)
    train(model, optimizer, 20)
    assert monitor.metrics()["sparsity_pruned"] == 0
    with pytest.warns(UserWarning, match="no pruned weight is zero after step 20: the threshold .* use a larger c"):
        monitor.remove()
    monitor.remove()
    for ordinary in (grda(model, c=0.0), SGD(model.parameters(), lr=0.1)):
        with SparsityMonitor(model, ordinary, interval=5):
            train(model, ordinary, 10)
    model = network()
    optimizer = grda(model, c=1e-9)
    with SparsityMonitor(model, optimizer):
        pass  # no step, nothing to say
    with pytest.raises(IndexError), SparsityMonitor(model, optimizer, interval=1):
        train(model, optimizer, 3) or [][0]  # the error is what the user has to see


def scaled(model, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(6):
        optimizer.zero_grad()
        for part in range(2):  # accumulation
            scaler.scale(nn.functional.cross_entropy(model(X[part::2]), Y[part::2])).backward()
        scaler.step(optimizer)
        scaler.update()


def scheduled(model, optimizer):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step > 2))
    for step in range(6):
        if step == 4:
            model[0].weight.requires_grad_(False)

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        optimizer.step(closure)
        schedule.step()


@pytest.mark.parametrize("loop", [scaled, scheduled, lambda model, optimizer: train(model, optimizer, 6)])
@pytest.mark.parametrize(
    "make", [grda, directional, lambda model: SGD(model.parameters(), lr=0.1), lambda model: grda(model, c=0.0)]
)
def test_ordinary_loops_are_silent_and_train_to_the_same_bits(loop, make):
    ends = []
    for watch in (False, True):
        model = network()
        optimizer = make(model)
        monitor = SparsityMonitor(model, optimizer, interval=1) if watch else None
        loop(model, optimizer)
        if monitor:
            monitor.metrics()
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_locked_zeros_under_any_optimizer_are_counted_and_never_revive():
    model = network()
    with torch.no_grad():
        model[0].weight[:8] = 0
        model[2].weight.zero_()  # dead from the beginning: not an outcome of this training
    optimizer = SGD(model.parameters(), lr=0.1)
    with freeze_zeros(model), SparsityMonitor(model, optimizer, interval=1) as monitor:
        train(model, optimizer, 3)
        assert monitor.metrics()["revivals"] == 0
        assert monitor.metrics()["dead_rows"] == 12


def test_copies_of_the_optimizer_are_not_watched_and_removal_ends_it():
    model = network()
    optimizer = directional(model)
    monitor = SparsityMonitor(model, optimizer, interval=1)
    train(model, optimizer, 2)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    for each in copies:
        for group in each.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        each.step()
    assert monitor._steps == 2
    monitor.remove()
    train(model, optimizer, 2)
    assert monitor._steps == 2
    assert not optimizer._optimizer_step_post_hooks


def test_a_monitor_keeps_neither_optimizer_nor_network_alive():
    model = network()
    optimizer = grda(model)
    SparsityMonitor(model, optimizer)  # it lives with the optimizer
    train(model, optimizer, 2)
    gone = weakref.ref(optimizer), weakref.ref(model[0].weight)
    del model, optimizer
    assert [each() for each in gone] == [None, None]


def test_wrapped_optimizers_are_watched_inside():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = network()
    optimizer = grda(model)
    monitor = SparsityMonitor(model, Wrapper(Wrapper(optimizer)), interval=1)
    train(model, optimizer, 2)
    assert monitor._steps == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda model: (model.parameters(), grda(model)), TypeError, "invalid model: generator"),
        (lambda model: (model, model), TypeError, "invalid optimizer: Sequential"),
        (lambda model: (model, grda(network())), ValueError, "no parameter of the model"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SparsityMonitor(*arguments(network()))
    for interval in (0, 1.5):
        with pytest.raises(ValueError, match=f"invalid interval: {interval} "):
            SparsityMonitor(model := network(), grda(model), interval=interval)


def test_counts_that_are_still_on_their_way_are_judged_when_they_arrive(monkeypatch):
    class Event:
        passed = False

        def query(self):
            return self.passed

        def synchronize(self):
            self.passed = True

    events = []

    def copy_later(counts):
        events.append(Event())
        return counts, events[-1]

    monkeypatch.setattr(module, "_copy_to_host", copy_later)
    monkeypatch.setattr(module, "_is_on_host", lambda counts: False)
    model = network()
    optimizer = grda(model, c=100.0)
    SparsityMonitor(model, optimizer, interval=5)
    train(model, optimizer, 7)  # silent: nobody waits
    events[-1].passed = True
    with pytest.warns(UserWarning, match="all 640 weights are zero after step 5: "):
        train(model, optimizer, 1)


PROGRAM = """
import sys, torch, torch.distributed as dist, warnings
from torch import nn
from torch.distributed.fsdp import fully_shard
from directional_pruning import GRDA, SparsityMonitor, prunable_groups
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def watch(c, sharded):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    if sharded:
        for layer in (model[0], model[2], model):
            fully_shard(layer)
    optimizer = GRDA(prunable_groups(model), lr=0.1, c=c)
    monitor = SparsityMonitor(model, optimizer, interval=1 if sharded and c > 1 else 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a part of a layer that is all zero is no dead layer
        for step in range(24):
            if step == 20:
                monitor.metrics()
            optimizer.zero_grad()
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
            ((1 if step < 20 else 30) * (model(x) - 1).square().mean()).backward()
            optimizer.step()
            if c > 1:
                break
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = monitor.metrics(layers=True)
    monitor.remove()
    return metrics, [str(each.message) for each in caught]

print([watch(c, sharded) for c in (0.1, 100.0) for sharded in (False, True)])
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo")
def test_sharded_processes_count_the_whole_network_and_say_what_one_process_says(tmp_path):
    processes = [Program("-c", PROGRAM, rank, tmp_path / "store", cwd=tmp_path) for rank in range(2)]
    outputs = [ast.literal_eval(process.communicate(timeout=100)[0]) for process in processes]
    assert outputs[0] == outputs[1]
    one, sharded, one_dead, sharded_dead = outputs[0]
    assert one[0]["revivals"] > 0
    assert sharded == one
    assert sharded_dead[0] == one_dead[0]
    assert (one_dead[0]["dead_layers"], one_dead[0]["dead_rows"]) == (2, 8)
    for _, messages in (one_dead, sharded_dead):
        (message,) = messages
        assert message.startswith("every pruned layer: all 55 weights are zero after step 1: the threshold")
