"""Weights written from outside: GRDA says in one line that it undoes them, Directional takes them into its dual."""

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from directional_pruning import GRDA, Directional, freeze_zeros

KINDS = {
    "kernel": {},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False, "fused": False},
    "momentum": {"momentum": 0.9, "weight_decay": 1e-3},
}
WARNING = "GRDA is about to undo a change from outside of"


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)


def step(model, optimizer, times=1):
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.randn(16, 8).to(next(model.parameters()))).square().mean().backward()
        optimizer.step()


def trained(dtype=torch.float32, steps=20, **options):
    model = network(dtype)
    optimizer = GRDA(model.named_parameters(), lr=0.1, c=0.02, **options)
    step(model, optimizer, steps)
    assert any((p == 0).any() for p in model.parameters())
    return model, optimizer


def other(model):
    return {name: torch.randn_like(p) for name, p in model.state_dict().items()}


@torch.no_grad()
def on_weight(model, change):
    change(model[2].weight)


WRITES = {
    "load_state_dict": lambda m: m.load_state_dict(other(m)),
    "load_state_dict, assign": lambda m: m.load_state_dict(
        {k: nn.Parameter(v) for k, v in other(m).items()}, assign=True
    ),
    "clamp_": lambda m: on_weight(m, lambda w: w.clamp_(-0.05, 0.05)),
    "re-initialise": lambda m: nn.init.xavier_uniform_(m[2].weight),
    "reset_parameters": lambda m: m[2].reset_parameters(),
    "scale": lambda m: on_weight(m, lambda w: w.mul_(0.95)),
    "mask": lambda m: on_weight(m, lambda w: w.mul_(torch.rand_like(w) < 0.5)),
    "one number": lambda m: on_weight(m, lambda w: w[3, 7].add_(1)),
    "detach": lambda m: m[0].bias.detach().fill_(1.0),
    "copy a mean": lambda m: nn.utils.vector_to_parameters(torch.ones(212), m.parameters()),
}
OF_DATA = {
    "data, clamp_": lambda m: [p.data.clamp_(-0.01, 0.01) for p in m.parameters()],
    "data, copy_": lambda m: [p.data.copy_(torch.randn_like(p)) for p in m.parameters()],
    "data, set": lambda m: [setattr(p, "data", torch.randn_like(p)) for p in m.parameters()],
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_way_to_write_warns_and_names_the_parameter(dtype, options):
    for name, write in (WRITES | OF_DATA).items():
        if "assign" in name:  # other parameters, which the optimizer does not have
            continue
        model, optimizer = trained(dtype, **options)
        write(model)
        with pytest.warns(UserWarning, match=WARNING) as said:
            step(model, optimizer)
        assert len(said) == 1, name
        assert (
            " weight" in str(said[0].message) or "0.bias" in str(said[0].message) or ".weight" in str(said[0].message)
        )
        assert said[0].filename == __file__
        assert "\n" not in str(said[0].message)


def test_one_warning_for_an_optimizer_and_it_points_at_the_line_of_the_step():
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(4):
            nn.init.normal_(model[0].weight)
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(4, 8)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
    assert [w.filename for w in said] == [__file__]
    assert "0.weight: weights follow" in str(said[0].message)


def test_an_error_made_of_the_warning_comes_before_anything_moves():
    model, optimizer = trained()
    on_weight(model, lambda w: w.add_(1))
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=WARNING):
            step(model, optimizer)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_state_loaded_without_the_weights_and_weights_without_the_state_warn():
    model, optimizer = trained()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for weights, state in ((None, saved[1]), (saved[0], None)):
        again, theirs = trained(steps=9)
        if weights:
            again.load_state_dict(weights)
        if state:
            theirs.load_state_dict(copy.deepcopy(state))
        with pytest.warns(UserWarning, match=f"{WARNING} 0.weight .and 3 more.: "):
            step(again, theirs)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_leaves_the_weights_as_they_were_is_silent(dtype, options, tmp_path):
    model, optimizer = trained(dtype, **options)
    step(model, optimizer, 40)  # every parameter is the sampled one once

    # The averages of a callback, swapped in and out.
    average = AveragedModel(model)
    for swap in (lambda a, b: a.copy_(b), lambda a, b: a.data.copy_(b), lambda a, b: setattr(a, "data", b)):
        for p, q in zip(model.parameters(), average.parameters(), strict=True):
            kept = p.detach().clone()
            with torch.no_grad():
                swap(p, q)
                swap(p, kept)
        step(model, optimizer, 3)

    # A checkpoint: weights first, state first, through a file, by assignment and into the same optimizer.
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "a.pt")
    weights, state = torch.load(tmp_path / "a.pt")
    step(model, optimizer, 3)
    optimizer.load_state_dict(copy.deepcopy(state))
    model.load_state_dict(weights)
    step(model, optimizer, 3)
    model.load_state_dict(weights)
    optimizer.load_state_dict(copy.deepcopy(state))
    step(model, optimizer, 3)
    fresh = network(dtype, seed=1)
    fresh.load_state_dict(copy.deepcopy(weights), assign=True)
    theirs = GRDA(fresh.named_parameters(), lr=0.1, c=0.02, **options)
    theirs.load_state_dict(copy.deepcopy(state))
    step(fresh, theirs, 3)

    # Copies.
    for copied, theirs in (
        copy.deepcopy((model, optimizer)),
        pickle.loads(pickle.dumps((model, optimizer))),
    ):
        step(copied, theirs, 3)

    # Perturbed and restored.
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn_like(p) * 0.05
            if dtype in (torch.float32, torch.float64):
                p.add_(noise).sub_(noise)
    step(model, optimizer, 3)


def test_weights_that_were_stored_in_half_precision_are_silent():
    for half in (torch.bfloat16, torch.float16):
        model, optimizer = trained()
        model.load_state_dict({name: t.to(half) for name, t in model.state_dict().items()})
        step(model, optimizer)


def test_a_rate_of_zero_groups_without_pruning_and_missing_gradients_are_silent():
    model = network()
    groups = [{"params": model[0].parameters(), "c": 0}, {"params": model[2].parameters()}]
    optimizer = GRDA(groups, lr=0.0, c=0.02)
    step(model, optimizer, 2)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    step(model, optimizer, 5)
    with torch.no_grad():
        model[0].weight.add_(1)  # SGD keeps it
    step(model, optimizer, 2)
    model[2].requires_grad_(False)
    step(model, optimizer, 2)
    model[2].requires_grad_(True)
    step(model, optimizer, 2)
    layer = nn.Linear(16, 4)
    optimizer.add_param_group({"params": layer.parameters()})
    with torch.no_grad():
        layer.weight.add_(1)  # before its first step
    step(model, optimizer, 2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_locked_zeros_are_silent_also_with_momentum_that_would_revive_them(momentum):
    model, optimizer = trained(momentum=momentum)
    with torch.no_grad():  # zeros that a dual far above the threshold belongs to
        optimizer.state[model[0].weight]["dual"][0, :] += 1
        model[0].weight[0] = 0
    handle = freeze_zeros(model)
    step(model, optimizer, 40)
    assert not model[0].weight[0].any()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(copy.deepcopy(state))
    step(model, optimizer, 2)
    handle.remove()
    step(model, optimizer, 2)


def test_accumulation_a_gradient_scaler_and_a_closure_are_silent():
    model, optimizer = trained()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    for n in range(20):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(torch.randn(6, 8)).float().square().mean()
        scaler.scale(loss).backward()
        if n % 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    def closure():
        optimizer.zero_grad()
        loss = model(torch.randn(6, 8)).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def test_a_module_that_moves_is_silent_and_a_write_after_it_is_not():
    model, optimizer = trained()
    model.to("cpu", memory_format=torch.preserve_format).requires_grad_()
    step(model, optimizer, 2)
    model.to(torch.bfloat16).to(torch.float32)  # rounded
    step(model, optimizer, 2)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()
        step(model, optimizer, 2)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    on_weight(model, lambda w: w.add_(1))
    with pytest.warns(UserWarning, match=WARNING):
        step(model, optimizer)


def test_a_parametrized_weight_warns_when_it_is_assigned():
    model = network()
    parametrizations.weight_norm(model[0])
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.02)
    step(model, optimizer, 5)
    parametrize.remove_parametrizations(model[0], "weight", leave_parametrized=True)
    parametrizations.orthogonal(model[2])
    step(model, GRDA(model.parameters(), lr=0.1, c=0.02), 5)
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.02)
    step(model, optimizer, 5)
    model[2].weight = nn.init.orthogonal_(torch.empty(4, 16))
    with pytest.warns(UserWarning, match=WARNING):
        step(model, optimizer)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_state_that_was_popped_starts_from_the_new_weights(options):
    model, optimizer = trained(**options)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    optimizer.state.pop(model[0].weight)
    step(model, optimizer)
    assert (model[0].weight - 3).abs().max() < 0.5


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_dual_written_with_the_weights_keeps_them_and_the_threshold(options):
    model, optimizer = trained(**options)
    new = {name: t * 2 for name, t in model.state_dict().items()}
    model.load_state_dict(new)
    with torch.no_grad():
        for p in model.parameters():
            state = optimizer.state[p]
            state["dual"].copy_(p + p.sign() * state["threshold"])
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6
    optimizer.step()
    for name, t in model.state_dict().items():
        torch.testing.assert_close(t, new[name], rtol=1e-4, atol=1e-4)
        assert torch.equal(t == 0, new[name] == 0)


def test_what_is_remembered_is_in_no_file_and_keeps_no_optimizer_alive():
    model, optimizer = trained()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert b"outside" not in file.getvalue()
    assert b"outside" not in pickle.dumps(optimizer)
    alive = weakref.ref(optimizer), weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert alive[0]() is alive[1]() is None


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directional_takes_a_write_into_its_dual_without_a_warning(dtype, power):
    model = network(dtype)
    optimizer = Directional(torch.optim.SGD(model.parameters(), lr=0.1), c=0.02, power=power)
    step(model, optimizer, 20)
    p = model[0].weight
    assert (p == 0).any()
    before, dual, target = p.detach().clone(), optimizer.state[p]["dual"].clone(), torch.randn_like(p)
    model[0].load_state_dict({"weight": target, "bias": model[0].bias})
    for q in model.parameters():
        q.grad = torch.zeros_like(q)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["dual"], dual + (target - before).float(), rtol=1e-2, atol=1e-2)
    # What moves no weight through zero is kept as it was written, but for the growth of the threshold.
    kept = (before != 0) & (target * before > 0) & (power == 1)
    torch.testing.assert_close(p.detach()[kept], target[kept], rtol=1e-2, atol=2e-2)
