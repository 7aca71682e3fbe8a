"""Locked zeros: under every optimizer, in one process and in two.

This file is also the program that the processes run: ``python test_freeze.py RANK FOLDER``.
"""

import copy
import gc
import os
import pickle
import sys
import traceback
import weakref
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from programs import run_together
from torch import nn
from torch.nn.modules.module import _global_parameter_registration_hooks
from torch.nn.utils import parametrizations, parametrize
from torch.optim import SGD, Adam, AdamW
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from directional_pruning import GRDA, Directional, freeze_zeros

SECONDS = 60

if __name__ == "__main__":  # modules that take a second to import, and that only the processes need
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor


class Net(nn.Module):
    """Rows that two processes cannot share evenly, a bias without zeros, a parameter used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.square, self.narrow = nn.Linear(8, 5), nn.Linear(5, 5), nn.Linear(5, 1)
        self.again = self.square

    def forward(self, x):
        return self.narrow(self.again(torch.tanh(self.square(torch.tanh(self.wide(x))))))


@torch.no_grad()
def prune(model, fraction=0.6):
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.masked_fill_(torch.rand(p.shape, generator=generator) < fraction, 0)
    model.square.bias.fill_(0.5)
    model.wide.weight[0, :3] = -0.0
    return model


def zeros(model):
    return {name: p == 0 for name, p in model.named_parameters()}


def assert_locked(model, places):
    """Every zero is +0.0 in all its bits, and what is not locked is in use."""
    for name, p in model.named_parameters():
        assert not p.detach()[places[name]].contiguous().view(torch.uint8).any(), name
        unlocked = p.detach()[~places[name]]
        assert unlocked.count_nonzero() >= 0.8 * unlocked.numel(), name


def loss_of(model, x):
    return (model(x) - x[:, :1]).square().mean()


def train(model, optimizer, steps=8, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(6, 8, generator=generator)

        def closure(x=x):
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            return loss

        optimizer.step(closure)


def hooks():
    return len(_global_optimizer_post_hooks)


@pytest.fixture(autouse=True)
def _no_lock_stays():
    yield
    _global_optimizer_post_hooks.clear()
    _global_optimizer_pre_hooks.clear()
    _global_parameter_registration_hooks.clear()


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd, momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd, fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "adam, one by one": lambda p: Adam(p, lr=0.1, foreach=False),
    "adamw, foreach": lambda p: AdamW(p, lr=0.1, foreach=True),
    "adamw, fused": lambda p: AdamW(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "grda": lambda p: GRDA(p, lr=0.1, c=1e-4, momentum=0.9),
    "grda, unfused": lambda p: GRDA(p, lr=0.1, c=1e-4, fused=False),
    "grda, c=0": lambda p: GRDA(p, lr=0.1, c=0, momentum=0.9),
    "directional": lambda p: Directional(AdamW(p, lr=0.01), c=1e-4),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_no_optimizer_revives_a_zero_not_even_with_momentum_from_before(make):
    model = Net()
    optimizer = make(list(model.parameters()))
    train(model, optimizer)
    prune(model)
    places, start = zeros(model), copy.deepcopy(model.state_dict())
    freeze_zeros(model)
    # prune() also writes a bias, which GRDA undoes.
    undone = isinstance(optimizer, GRDA) and optimizer.defaults["c"] > 0
    with pytest.warns(UserWarning, match="undo a change from outside of .* 3 ") if undone else nullcontext():
        train(model, optimizer, steps=1)
    for _ in range(5):
        assert_locked(model, places)
        train(model, optimizer, steps=1)
    train(model, optimizer, steps=15, seed=3)
    assert_locked(model, places)
    assert any((model.state_dict()[name] != before)[before != 0].any() for name, before in start.items())


@pytest.mark.parametrize("make", [OPTIMIZERS["sgd, momentum"], OPTIMIZERS["adam"], OPTIMIZERS["adamw, foreach"]])
def test_training_is_that_of_the_network_without_the_locked_weights(make):
    # f is a sum over weights, so the nonzero ones alone are a network.
    whole = nn.ParameterList([torch.tensor([1.0, 0.0, -2.0, -0.0, 3.0])])
    restricted = nn.ParameterList([torch.tensor([1.0, -2.0, 3.0])])
    target = torch.arange(1.0, 6.0)
    freeze_zeros(whole)
    both = [(whole, make(whole.parameters()), target), (restricted, make(restricted.parameters()), target[::2])]
    for _ in range(10):
        for network, optimizer, towards in both:
            optimizer.zero_grad()
            (network[0] - towards).pow(4).sum().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
    assert whole[0][1] == whole[0][3] == 0
    assert torch.equal(whole[0][::2], restricted[0])


def test_what_an_optimizer_writes_off_the_support_is_gone_a_nan_on_it_stays():
    class Vandal(SGD):
        def step(self, closure=None):
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))

    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, -0.0]]))
    freeze_zeros(layer)
    assert not layer.weight.signbit().any()
    Vandal(layer.parameters(), lr=0.1).step()
    assert layer.weight.isnan().tolist() == [[False, True, False]]
    assert torch.equal(layer.weight.nan_to_num(0.0), torch.zeros(1, 3))


def test_with_accumulated_gradients_and_a_gradient_scaler():
    model = prune(Net())
    places = zeros(model)
    optimizer = Adam(model.parameters(), lr=0.05)
    freeze_zeros(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    skipped = 0
    for n in range(24):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(model, torch.randn(6, 8))
        scaler.scale(loss).backward()
        if n % 2:
            before, scale = copy.deepcopy(model.state_dict()), scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if scaler.get_scale() < scale:
                skipped += 1
                assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        assert_locked(model, places)
    assert 0 < skipped < 12


def test_gradients_are_cleared_as_they_come():
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    for _ in range(2):
        loss_of(model, torch.randn(6, 8)).backward()
        assert all(not p.grad[places[name]].any() for name, p in model.named_parameters())
        assert any(p.grad.any() for p in model.parameters())


def test_a_gradient_with_a_graph_is_left_alone_and_can_be_differentiated():
    model = prune(Net())
    places, optimizer = zeros(model), SGD(model.parameters(), lr=0.1)
    freeze_zeros(model)
    with pytest.warns(UserWarning, match="create_graph"):
        loss_of(model, torch.randn(6, 8)).backward(create_graph=True)
    penalty = sum(p.grad.square().sum() for p in model.parameters())
    assert all(g.isfinite().all() for g in torch.autograd.grad(penalty, [model.wide.weight, model.narrow.weight]))
    optimizer.step()
    assert_locked(model, places)
    optimizer.zero_grad()


def test_removed_all_weights_train():
    model = prune(Net())
    places = zeros(model)
    with freeze_zeros(model) as handle:
        assert hooks() == 1
        train(model, Adam(model.parameters(), lr=0.1))
        assert_locked(model, places)
    assert hooks() == 0
    train(model, Adam(model.parameters(), lr=0.1))
    assert all(p[places[name]].all() for name, p in model.named_parameters())
    handle.remove()


def test_it_holds_without_the_handle_and_ends_with_the_network():
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    gc.collect()
    train(model, Adam(model.parameters(), lr=0.1))
    assert_locked(model, places)
    handle = freeze_zeros(Net())
    gc.collect()
    other = prune(Net())
    train(other, Adam(other.parameters(), lr=0.1))
    assert all(p[places[name]].all() for name, p in other.named_parameters())
    handle.remove()
    assert hooks() == 1


def test_only_the_part_that_was_given_is_locked():
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model.wide)
    train(model, Adam(model.parameters(), lr=0.1))
    assert not model.wide.weight[places["wide.weight"]].any()
    assert model.narrow.weight[places["narrow.weight"]].all()


def test_the_state_dict_stays_and_freezing_what_loaded_it_locks_the_same():
    model = prune(Net())
    places, names = zeros(model), list(model.state_dict())
    freeze_zeros(model)
    assert list(model.state_dict()) == names
    train(model, Adam(model.parameters(), lr=0.1))
    again = Net()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    freeze_zeros(again)
    optimizers = [Adam(each.parameters(), lr=0.1) for each in (model, again)]
    for each, optimizer in zip((model, again), optimizers, strict=True):
        train(each, optimizer, seed=5)
    assert_locked(again, places)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_an_ordinary_network(duplicate):
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    copied = duplicate(model)
    assert b"directional_pruning" not in pickle.dumps(model)
    for each in (model, copied):
        train(each, Adam(each.parameters(), lr=0.1))
    assert_locked(model, places)
    assert all(p[places[name]].all() for name, p in copied.named_parameters())


def test_weights_written_by_hand_are_put_right_at_the_next_step_or_when_asked():
    model = prune(Net())
    places, other = zeros(model), Net().state_dict()
    handle, optimizer = freeze_zeros(model), Adam(model.parameters(), lr=0.1)
    model.load_state_dict(other)
    handle.apply()
    assert_locked(model, places)
    assert torch.equal(model.narrow.weight[~places["narrow.weight"]], other["narrow.weight"][~places["narrow.weight"]])
    model.load_state_dict(other)
    train(model, optimizer, steps=1)
    assert_locked(model, places)


def test_a_parameter_put_in_place_of_a_frozen_one_is_locked_at_its_own_zeros():
    model = prune(Net())
    freeze_zeros(model)
    model.narrow.weight = nn.Parameter(torch.tensor([[0.0, 2.0, 3.0, 4.0, 0.0]]))
    places = zeros(model)
    train(model, Adam(model.parameters(), lr=0.1))
    assert_locked(model, places)
    assert model.narrow.weight.count_nonzero() == 3


def test_other_dtypes_layouts_and_what_is_not_trained():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = nn.Parameter(torch.eye(3).half())
            self.shorter = nn.Parameter(torch.eye(3).bfloat16())
            self.long = nn.Parameter(torch.eye(3).double())
            self.twofold = nn.Parameter(torch.eye(3).cfloat())
            self.long_twofold = nn.Parameter(torch.eye(3).cdouble())
            self.last = nn.Parameter(torch.eye(4).reshape(2, 2, 2, 2).to(memory_format=torch.channels_last))
            self.scalar = nn.Parameter(torch.tensor(0.0))
            self.nothing = nn.Parameter(torch.empty(0, 3))
            self.still = nn.Parameter(torch.eye(3), requires_grad=False)
            self.count = nn.Parameter(torch.tensor([0, 1]), requires_grad=False)
            self.register_parameter("none", None)

    model = Odd()
    places = zeros(model)
    freeze_zeros(model)
    model.still.requires_grad_()
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        sum((p + 1).abs().square().sum().float() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
    assert_locked(model, places)
    assert model.count.tolist() == [0, 1]
    model.double()  # the same parameters, other data
    train_again = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum((p + 1).abs().square().sum() for p in model.parameters() if p.requires_grad).backward()
    train_again.step()
    assert_locked(model, places)


def test_sparse_gradients():
    model = nn.Embedding(6, 3, sparse=True)
    with torch.no_grad():
        model.weight[:, 1] = 0.0
    places = zeros(model)
    freeze_zeros(model)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([0, 2, 2])).sum().backward()
        optimizer.step()
    assert_locked(model, places)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("make", [OPTIMIZERS["adam"], OPTIMIZERS["grda"]])
def test_a_compiled_training_step_keeps_them(make):
    model = prune(Net())
    places, optimizer = zeros(model), make(list(model.parameters()))
    freeze_zeros(model)

    @torch.compile(backend="eager")
    def step(x):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()

    for _ in range(4):
        step(torch.randn(6, 8))
    assert_locked(model, places)
    torch._dynamo.reset()


def test_two_locks_are_two():
    model = prune(Net())
    places = zeros(model)
    first = freeze_zeros(model)
    with torch.no_grad():
        model.narrow.weight.zero_()
    second = freeze_zeros(model)
    first.remove()
    train(model, Adam(model.parameters(), lr=0.1))
    assert not model.narrow.weight.any()
    assert not model.wide.weight[places["wide.weight"]].any()
    second.remove()
    assert hooks() == 0


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (torch.zeros(3), TypeError, "zeros of Tensor: not a module"),
        (nn.Linear(2, 2, device="meta"), ValueError, "zeros of 'weight': it has no values yet"),
        (nn.LazyLinear(2), ValueError, "zeros of 'weight': it has no values yet"),
    ],
)
def test_what_cannot_be_frozen_is_named(model, error, message):
    with pytest.raises(error, match=message):
        freeze_zeros(model)
    assert hooks() == 0


# Moves of the parameters


@pytest.fixture(params=["as torch does", "overwrite", "swap"])
def conversion(request):
    torch.__future__.set_overwrite_module_params_on_conversion(request.param == "overwrite")
    torch.__future__.set_swap_module_params_on_conversion(request.param == "swap")
    yield request.param
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    torch.__future__.set_swap_module_params_on_conversion(False)


def others(model):
    return {name: torch.randn_like(t) for name, t in model.state_dict().items()}


def to_empty(model, through=None):
    saved = copy.deepcopy(model.state_dict())
    if through:
        model.to(through)
    model.to_empty(device="cpu").load_state_dict(saved)


MOVES = {
    "bfloat16": lambda model: model.bfloat16(),
    "half and back": lambda model: model.half().float(),
    "double": lambda model: model.double(),
    "to": lambda model: model.to("cpu", torch.float64),
    "to_empty": to_empty,
    "meta": lambda model: to_empty(model, "meta"),
    "load": lambda model: model.load_state_dict(others(model)),
    "load, assign": lambda model: model.load_state_dict(others(model), assign=True),
    "load, assign parameters": lambda model: model.load_state_dict(
        {name: nn.Parameter(t) for name, t in others(model).items()}, assign=True
    ),
    "convert, then load": lambda model: model.bfloat16().float().load_state_dict(others(model)),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_zeros_stay_locked_through_every_move_of_the_parameters(move, conversion):
    for trained in (False, True):
        model = prune(Net())
        places = zeros(model)
        freeze_zeros(model)
        if trained:
            train(model, Adam(model.parameters(), lr=0.1), steps=1)
            model.zero_grad()
        move(model)
        optimizer = Adam(model.parameters(), lr=0.1, foreach=False)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, torch.randn(6, 8).to(model.wide.weight)).backward()
            optimizer.step()
            assert_locked(model, places)
        optimizer.zero_grad()
        loss_of(model, torch.randn(6, 8).to(model.wide.weight)).backward()
        assert all(not p.grad[places[name]].any() for name, p in model.named_parameters())
        if conversion == "swap":
            del optimizer


def test_an_optimizer_from_before_goes_on_after_a_swap():
    model = prune(Net())
    places, optimizer = zeros(model), SGD(model.parameters(), lr=0.1)
    handle = freeze_zeros(model)
    train(model, optimizer)
    optimizer.zero_grad()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.load_state_dict(others(model))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    handle.apply()
    assert_locked(model, places)
    train(model, optimizer)
    assert_locked(model, places)


def test_after_a_load_by_assignment_apply_clears_and_a_deepcopy_is_free():
    model = prune(Net())
    places, handle = zeros(model), freeze_zeros(model)
    model.load_state_dict(others(model), assign=True)
    handle.apply()
    assert_locked(model, places)
    copied = copy.deepcopy(model)
    train(copied, Adam(copied.parameters(), lr=0.1))
    assert copied.wide.weight[places["wide.weight"]].all()
    handle.remove()
    train(model, Adam(model.parameters(), lr=0.1))
    assert model.wide.weight[places["wide.weight"]].all()


def test_two_locks_both_clear_gradients():
    model = prune(Net())
    places, first = zeros(model), freeze_zeros(model)
    freeze_zeros(model)
    first.remove()
    loss_of(model, torch.randn(6, 8)).backward()
    assert all(not p.grad[places[name]].any() for name, p in model.named_parameters())


class Double(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


class Shifted(nn.Module):
    def forward(self, x):
        return x + 1

    def right_inverse(self, x):
        return x - 1


PARAMETRIZED = {
    "weight_norm": lambda layer: parametrizations.weight_norm(layer),
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer),
    "a factor": lambda layer: parametrize.register_parametrization(layer, "weight", Double()),
    "prune": lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.7),
}


@pytest.mark.parametrize("register", PARAMETRIZED.values(), ids=PARAMETRIZED)
@pytest.mark.parametrize("make", [OPTIMIZERS["adam"], OPTIMIZERS["sgd, momentum"]])
def test_zeros_of_the_weight_in_use_stay_locked_where_a_parametrization_is_registered_later(register, make):
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    register(model.wide)
    optimizer = make(model.parameters())
    for _ in range(3):
        train(model, optimizer, steps=1)
        model(torch.randn(6, 8))
        assert not model.wide.weight[places["wide.weight"]].any()
    assert model.wide.weight.count_nonzero() > 3
    if parametrize.is_parametrized(model.wide):
        parametrize.remove_parametrizations(model.wide, "weight")
        train(model, make(model.parameters()))
        assert not model.wide.weight[places["wide.weight"]].any()


@pytest.mark.parametrize("shift", [lambda layer: parametrize.register_parametrization(layer, "weight", Shifted()),
                                   parametrizations.orthogonal])  # fmt: skip
def test_a_parametrization_that_makes_other_numbers_of_zeros_is_named_once(shift):
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    shift(model.square)
    optimizer = SGD(model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="zeros of 'square.weight' are no longer locked") as said:
        train(model, optimizer)
    assert [w.filename for w in said] == [__file__]
    train(model, optimizer)
    assert not model.wide.weight[places["wide.weight"]].any()


def test_tied_after_freezing_a_weight_stays_locked_at_its_zeros():
    model = prune(Net())
    places = zeros(model)
    freeze_zeros(model)
    model.other = nn.Linear(5, 5)
    model.other.weight = model.square.weight
    model.again = nn.Linear(5, 5)
    model.again.weight = model.square.weight
    model.square.weight = model.again.weight
    train(model, Adam(model.parameters(), lr=0.1))
    for layer in (model.square, model.other, model.again):
        assert not layer.weight[places["square.weight"]].any()
    assert model.square.weight[~places["square.weight"]].all()


def test_a_network_that_is_gone_leaves_nothing():
    model = prune(Net())
    handle = freeze_zeros(model)
    train(model, Adam(model.parameters(), lr=0.1))
    alive = weakref.ref(model.wide)
    del model
    gc.collect()
    assert alive() is None
    assert handle._places == []


# Two processes


def whole(t):
    return t.detach().full_tensor() if isinstance(t, DTensor) else t.detach().clone()


def train_beside_one_process(rank, model, lock, wrap, make, **tolerance):
    """Freeze before or after the wrap; the weights are those of one process, locked where they were."""
    alone = prune(Net())
    places = zeros(alone)
    freeze_zeros(alone)
    if lock == "before":
        freeze_zeros(model)
    wrapped = wrap(model)
    if lock == "after":
        freeze_zeros(wrapped)
    optimizers = make(list(wrapped.parameters())), make(list(alone.parameters()))
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        x = torch.randn(6, 8, generator=generator)
        for network, optimizer, inputs in ((wrapped, optimizers[0], x.chunk(2)[rank]), (alone, optimizers[1], x)):
            optimizer.zero_grad()
            loss_of(network, inputs).backward()
            optimizer.step()
        for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(p), q.detach(), **tolerance)
            assert not whole(p)[places[name]].view(torch.uint8).any(), name
    assert_locked(alone, places)


def ddp(model):
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def shard(model, **options):
    for layer in (model.wide, model.square, model.narrow):
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def shard_in_mixed_precision(model):
    return shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32))


def on_two_processes(rank):
    for wrap in (ddp, shard):
        for lock in ("before", "after"):
            for name in ("sgd, momentum", "adamw, foreach", "grda"):
                train_beside_one_process(rank, prune(Net()), lock, wrap, OPTIMIZERS[name], rtol=1e-3, atol=1e-3)
                print(f"passed {wrap.__name__} {lock} {name}", flush=True)
    train_beside_one_process(
        rank, prune(Net()), "after", shard_in_mixed_precision, OPTIMIZERS["sgd"], rtol=0.1, atol=0.1
    )
    print("passed mixed precision", flush=True)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return run_together(*([__file__, rank, folder] for rank in range(2)), cwd=folder, seconds=SECONDS)


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo")
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [f"{wrap} {lock} {name}" for wrap in ("ddp", "shard") for lock in ("before", "after")
     for name in ("sgd, momentum", "adamw, foreach", "grda")] + ["mixed precision"],
)  # fmt: skip
def test_on_two_processes(printed, case):
    for rank, text in enumerate(printed):
        assert f"passed {case}\n" in text, f"process {rank} printed:\n{text}"


if __name__ == "__main__":
    try:
        torch.set_num_threads(1)
        rank, folder = int(sys.argv[1]), Path(sys.argv[2])
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'rendezvous'}",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=SECONDS // 2),
        )
        on_two_processes(rank)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting for a process that waits for this one
