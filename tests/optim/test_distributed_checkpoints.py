"""torch's distributed checkpoints give both optimizers their whole state back, which a step at a rate of 0 prepares.

This file is also a program: ``python test_distributed_checkpoints.py FOLDER`` goes on in a new process.
"""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import state_dict as dcs
from torch.optim import SGD, AdamW, NAdam, RMSprop

from directional_pruning import GRDA, Directional, Target, prunable_groups

# Advice for programs of several processes.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")

MAKE = {
    "GRDA": lambda groups: GRDA(groups, lr=0.1, c=0.05, mu=0.6),
    "GRDA momentum": lambda groups: GRDA(groups, lr=0.1, c=0.05, mu=0.6, momentum=0.9, weight_decay=0.01),
    "GRDA capturable": lambda groups: GRDA(groups, lr=torch.tensor(0.1), c=0.05, mu=0.6, capturable=True),
    "Directional SGD": lambda groups: Directional(SGD(groups, lr=0.1), c=0.05, mu=0.6),
    "Directional SGD momentum": lambda groups: Directional(SGD(groups, lr=0.1, momentum=0.9), c=0.05, mu=0.6),
    "Directional AdamW": lambda groups: Directional(AdamW(groups, lr=0.01), c=1.0, mu=0.6, power=4),
    "Directional AdamW tensor": lambda groups: Directional(AdamW(groups, lr=torch.tensor(0.01)), c=1.0, mu=0.6),
    "Directional RMSprop": lambda groups: Directional(RMSprop(groups, lr=0.01, momentum=0.5), c=1.0, mu=0.6),
    "GRDA target": lambda groups: GRDA(groups, lr=0.1, target=Target(0.5, steps=10, every=1)),
    "Directional target": lambda groups: Directional(SGD(groups, lr=0.1), target=Target(0.5, steps=10, every=1)),
    "Directional NAdam": lambda groups: Directional(NAdam(groups, lr=0.01), c=1.0, mu=0.6, power=3),
}
every_optimizer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def network(dtype=torch.float32, seed=0):
    """Its last layer is frozen."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.Linear(5, 3)).to(dtype)
    model[3].requires_grad_(False)
    return model


def advance(model, optimizer, steps):
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        for p in model.parameters():
            grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = grad if p.requires_grad else None
        optimizer.step()
    optimizer.zero_grad()


def bits(model, optimizer):
    """Weights and state, with their dtypes, as bytes."""
    found = {}
    for name, p in model.named_parameters():
        for key, t in {"w": p.detach(), **optimizer.state.get(p, {})}.items():
            if isinstance(t, torch.Tensor):
                found[name, key] = t.dtype, t.cpu().contiguous().reshape(-1).view(torch.uint8).tolist()
    return found


def save(model, optimizer, folder, **options):
    weights, state = dcs.get_state_dict(model, optimizer, options=dcs.StateDictOptions(**options))
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, no_dist=True)


def load(model, optimizer, folder, **options):
    options = dcs.StateDictOptions(**options)
    weights, state = dcs.get_state_dict(model, optimizer, options=options)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder, no_dist=True)
    dcs.set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)


@every_dtype
@every_optimizer
@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flattened"])
def test_a_distributed_checkpoint_gives_the_bits_of_never_having_stopped(make, dtype, flat, tmp_path):
    model, again = network(dtype), network(dtype, seed=5)
    optimizer, restored = make(prunable_groups(model)), make(prunable_groups(again))
    advance(model, optimizer, range(6))
    save(model, optimizer, tmp_path, flatten_optimizer_state_dict=flat)
    load(again, restored, tmp_path, flatten_optimizer_state_dict=flat)
    assert bits(again, restored) == bits(model, optimizer)
    advance(model, optimizer, range(6, 10))
    advance(again, restored, range(6, 10))
    assert bits(again, restored) == bits(model, optimizer)
    assert optimizer.state[model[0].weight]["threshold"] > 0
    updates = [[group.get("target_updates") for group in each.param_groups] for each in (optimizer, restored)]
    assert updates[0] == updates[1]


def goes_on(folder):
    """What the new process does."""
    for name, make in MAKE.items():
        model = network(seed=5)
        optimizer = make(prunable_groups(model))
        load(model, optimizer, folder / name)
        advance(model, optimizer, range(6, 10))
        torch.save(bits(model, optimizer), folder / f"{name}.pt")


@pytest.mark.slow
def test_a_new_process_goes_on_from_a_distributed_checkpoint(tmp_path):
    expected = {}
    for name, make in MAKE.items():
        model = network()
        optimizer = make(prunable_groups(model))
        advance(model, optimizer, range(6))
        save(model, optimizer, tmp_path / name)
        advance(model, optimizer, range(6, 10))
        expected[name] = bits(model, optimizer)
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True)
    assert {name: torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in MAKE} == expected


@every_dtype
@every_optimizer
def test_a_step_at_a_rate_of_0_makes_the_state_and_moves_nothing(make, dtype):
    model = network(dtype)
    optimizer = make(prunable_groups(model))
    before = [p.detach().clone() for p in model.parameters()]
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    assert all(map(torch.equal, model.parameters(), before))
    for p in model.parameters():
        state = optimizer.state.get(p, {})
        if p.requires_grad and p.ndim > 1:
            assert torch.equal(state["dual"], p.float())
            assert state["threshold"].item() == state.get("updates", state.get("step")).item() == 0
        else:
            assert "dual" not in state


@every_dtype
@pytest.mark.parametrize("power", [1, 1.5, 4])
@pytest.mark.parametrize("base", [SGD, lambda p, lr: SGD(p, lr=lr, weight_decay=0.1)], ids=["SGD", "decay"])
def test_the_first_update_after_a_step_at_a_rate_of_0_has_the_bits_of_a_first_step(base, power, dtype):
    runs = []
    for prepared in (False, True):
        torch.manual_seed(0)
        w = nn.Parameter((100 * torch.randn(300)).to(dtype))
        optimizer = Directional(base([w], lr=0.1), c=0.5, power=power)
        if prepared:
            optimizer.param_groups[0]["lr"] = 0.0
            w.grad = torch.zeros_like(w)
            optimizer.step()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.1
        for _ in range(3):
            w.grad = torch.randn(300).to(dtype)
            optimizer.step()
        runs.append((w.detach(), optimizer.state[w]["dual"]))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("name", ["GRDA", "Directional SGD momentum", "Directional AdamW tensor"])
def test_weights_loaded_after_the_state_was_prepared_stay(name):
    model, other = network(), network(seed=7)
    optimizer, twin = MAKE[name](prunable_groups(model)), MAKE[name](prunable_groups(other))
    dcs.get_state_dict(model, optimizer)
    dcs.get_state_dict(other, twin)
    model.load_state_dict(other.state_dict())
    for each, its in ((model, optimizer), (other, twin)):
        advance(each, its, range(3))
    assert bits(model, optimizer) == bits(other, twin)


SWITCHED = {
    "GRDA": lambda params: GRDA(params, lr=0.1, c=0.0),
    "SGD": lambda params: Directional(SGD(params, lr=0.1), c=0.0),
    "AdamW": lambda params: Directional(AdamW(params, lr=0.1), c=0.0),
}


@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flattened"])
@pytest.mark.parametrize("make", SWITCHED.values(), ids=SWITCHED)
def test_a_dual_that_a_checkpoint_has_and_the_new_optimizer_does_not_expect_is_never_dropped_silently(
    make, flat, tmp_path
):
    model = network()
    optimizer = make(model.parameters())
    advance(model, optimizer, range(3))
    optimizer.param_groups[0]["c"] = 0.2
    advance(model, optimizer, range(3, 6))
    save(model, optimizer, tmp_path, flatten_optimizer_state_dict=flat)
    again = network(seed=5)
    unaware, aware = make(again.parameters()), make(again.parameters())
    with pytest.warns(UserWarning, match=r"not loaded: dual of parameter 0 .* and 3 more.*set c") as caught:
        load(again, unaware, tmp_path, flatten_optimizer_state_dict=flat)
    assert [each.filename for each in caught if "not loaded" in str(each.message)] == [__file__]
    aware.param_groups[0]["c"] = 0.2
    load(again, aware, tmp_path, flatten_optimizer_state_dict=flat)
    advance(model, optimizer, range(6, 9))
    advance(again, aware, range(6, 9))
    assert bits(again, aware) == bits(model, optimizer)


def test_a_momentum_that_a_checkpoint_has_and_the_new_optimizer_does_not_expect_is_never_dropped_silently(tmp_path):
    model, again = network(), network(seed=5)
    advance(model, optimizer := GRDA(model.parameters(), lr=0.1, momentum=0.9), range(3))
    save(model, optimizer, tmp_path)
    with pytest.warns(UserWarning, match=r"not loaded: momentum_buffer of parameter 0 .*\(its momentum is 0.9\)"):
        load(again, GRDA(again.parameters(), lr=0.1), tmp_path)


@pytest.mark.parametrize("make", SWITCHED.values(), ids=SWITCHED)
def test_a_state_saved_before_pruning_began_is_loaded_without_a_warning(make):
    model, again = network(), network()
    optimizer, restored = make(model.parameters()), make(again.parameters())
    advance(model, optimizer, range(3))
    optimizer.param_groups[0]["c"] = 0.2
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(model.state_dict())
    advance(model, optimizer, range(3, 6))
    advance(again, restored, range(3, 6))
    assert bits(again, restored) == bits(model, optimizer)


@pytest.mark.parametrize("make", [MAKE["GRDA"], MAKE["Directional AdamW"]], ids=["GRDA", "Directional"])
def test_half_of_a_dual_is_refused(make):
    model = network()
    optimizer = make(prunable_groups(model))
    advance(model, optimizer, range(2))
    state = optimizer.state_dict()
    del state["state"][0]["threshold"]
    with pytest.raises(ValueError, match=r"0\.weight has a saved dual and no saved threshold"):
        make(prunable_groups(network())).load_state_dict(state)


if __name__ == "__main__":
    goes_on(Path(sys.argv[1]))
