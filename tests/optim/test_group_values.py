"""Values set after construction are checked at the step; groups take later groups; a base does not step alone."""

import copy
import io
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from directional_pruning import GRDA, Directional, grda, prunable_groups

NAN, INF = float("nan"), float("inf")
MAKE = {
    "GRDA": lambda params, **options: GRDA(params, lr=0.1, c=0.01, momentum=0.9, nesterov=True),
    "Directional": lambda params, **options: Directional(AdamW(params, lr=0.1), c=0.01, power=4),
}
both = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
BAD = {
    "lr": (NAN, INF, -1.0, "0.1", None, torch.tensor(NAN), torch.ones(2), np.float32(NAN), 1j, [0.1]),
    "c": (NAN, INF, -0.5, "0.1", None, torch.tensor(NAN), np.array(NAN), np.array([0.1, 0.2])),
    "mu": (NAN, 0.0, 5.0, "0.5", None, np.float64(2)),
}
OF_ONE = {
    "GRDA": {
        "momentum": (NAN, -1.0, None),
        "weight_decay": (NAN, INF, "0.1"),
        "nesterov": (NAN, "yes"),
        "maximize": (NAN, "no", None),
    },
    "Directional": {
        "power": (NAN, 0.5, INF, None),
        "momentum": (NAN, -1.0, "0.9"),
        "weight_decay": (NAN, INF, "0.1", torch.tensor(NAN)),
    },
}


def trained(make, dtype=torch.float32):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(30).to(dtype))
    optimizer = make([w])
    for _ in range(2):
        w.grad = torch.randn(30).to(dtype)
        optimizer.step()
    return w, optimizer


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_value_set_out_of_range_is_refused_before_closure_base_or_weights_move(name, dtype):
    for key, values in {**BAD, **OF_ONE[name]}.items():
        for value in values:
            w, optimizer = trained(MAKE[name], dtype)
            before, state = w.detach().clone(), copy.deepcopy(optimizer.state[w])
            optimizer.param_groups[0][key] = value
            calls = []
            for step in (optimizer.step, lambda o=optimizer, calls=calls: o.step(lambda: calls.append(1))):
                with pytest.raises(ValueError, match=rf"invalid {key}: .* \(must be "):
                    step()
            assert not calls
            assert torch.equal(w, before)
            assert all(torch.equal(optimizer.state[w][k], t) for k, t in state.items())


@both
def test_a_value_that_a_closure_sets_out_of_range_is_refused_before_the_base_moves(make):
    w, optimizer = trained(make)
    before = w.detach().clone()
    with pytest.raises(ValueError, match="invalid c: nan"):
        optimizer.step(lambda: optimizer.param_groups[0].update(c=NAN))
    assert torch.equal(w, before)
    optimizer.param_groups[0]["c"] = 0.01
    optimizer.step()


@both
def test_the_message_at_the_step_is_that_of_the_constructor(make):
    _, optimizer = trained(make)
    optimizer.param_groups[0]["mu"] = 5.0
    with pytest.raises(ValueError, match="invalid mu") as late:
        optimizer.step()
    with pytest.raises(ValueError, match="invalid mu") as early:
        type(optimizer)(SGD([nn.Parameter(torch.ones(1))]) if make is MAKE["Directional"] else [], mu=5.0)
    assert str(late.value) == str(early.value)


@both
def test_a_tensor_rate_changed_in_place_is_read_again(make):
    w, optimizer = trained(make)
    rate = optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    optimizer.step()
    rate.fill_(NAN)
    before = w.detach().clone()
    with pytest.raises(ValueError, match="invalid lr: nan"):
        optimizer.step()
    assert torch.equal(w, before)


def test_the_rate_of_a_base_that_prunes_nothing_is_its_own_business():
    w = nn.Parameter(torch.ones(3))
    optimizer = Directional(SGD([w], lr=0.1), c=0.0)
    optimizer.param_groups[0]["lr"] = -0.1
    w.grad = torch.ones(3)
    optimizer.step()
    assert (w > 1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own, while it traces
@both
def test_a_compiled_step_refuses_a_bad_value_too(make):
    torch._dynamo.reset()
    w, optimizer = trained(make)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    step()
    before = w.detach().clone()
    optimizer.param_groups[0]["c"] = NAN
    with pytest.raises(ValueError, match="invalid c: nan"):
        step()
    assert torch.equal(w, before)


def test_the_function_refuses_a_bad_number():
    w, v, n, g = torch.ones(2), torch.ones(2), torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)
    with pytest.raises(ValueError, match="invalid c: nan"):
        grda([w], [torch.ones(2)], [v], [None], [g], [n], lr=0.1, c=NAN, mu=0.5)
    assert (w == 1).all()


@both
@pytest.mark.parametrize("number", [np.float64, np.float32, np.array, Fraction], ids=lambda x: x.__name__)
def test_numbers_of_other_libraries_become_python_numbers_and_a_saved_state_is_readable(make, number):
    w = nn.Parameter(torch.ones(3))
    optimizer = make([{"params": [w], "lr": number(0.25), "c": number(0.5), "mu": number(0.75)}])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": number(0.25)})
    schedule = LambdaLR(optimizer, lambda n: np.float64(1 / (1 + n)))
    w.grad = torch.ones(3)
    optimizer.step()
    schedule.step()
    OneCycleLR(optimizer, max_lr=np.float64(0.1), total_steps=10)
    optimizer.param_groups[0]["c"] = number(0.25)
    saved = through_file(optimizer.state_dict())
    assert [(type(saved["param_groups"][0][key])) for key in ("lr", "c", "mu")] == [float] * 3
    optimizer.step()
    assert type(optimizer.param_groups[0]["c"]) is float


def test_numbers_of_numpy_in_a_base_and_in_defaults_become_python_numbers():
    w = nn.Parameter(torch.ones(3))
    base = AdamW([w], lr=np.float64(0.1), betas=(np.float64(0.9), 0.99), weight_decay=np.float32(0.5))
    optimizer = Directional(base, c=np.float32(0.5), mu=np.array(0.5), power=np.int64(2))
    optimizer.add_param_group({"params": nn.Parameter(torch.ones(1))})
    through_file(optimizer.state_dict())
    through_file(GRDA([w], lr=np.float64(0.1), momentum=np.float64(0.9), nesterov=np.bool_(True)).state_dict())


@both
def test_groups_with_and_without_names_may_follow_each_other(make):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    named, unnamed = make(prunable_groups(model)), make([nn.Parameter(torch.ones(2))])
    named.add_param_group({"params": [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))]})
    named.add_param_group({"params": [("extra", nn.Parameter(torch.ones(2)))]})
    assert [group["param_names"] for group in named.param_groups] == [
        ["0.weight", "1.weight"],
        ["0.bias", "1.bias"],
        ["group_2.parameter_0", "group_2.parameter_1"],
        ["extra"],
    ]
    with pytest.raises(ValueError, match=r"but phase is torch\.complex64"):
        unnamed.add_param_group({"params": [("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))]})
    assert "param_names" not in unnamed.param_groups[0]
    unnamed.add_param_group(prunable_groups(model)[0])
    assert [group["param_names"] for group in unnamed.param_groups] == [
        ["group_0.parameter_0"],
        ["0.weight", "1.weight"],
    ]
    assert len(GRDA([{"params": [nn.Parameter(torch.ones(2))]}, *prunable_groups(model)]).param_groups) == 3


@pytest.mark.parametrize("inner", [lambda p: GRDA(p), lambda p: Directional(SGD(p))], ids=["GRDA", "Directional"])
def test_a_base_that_prunes_by_itself_is_refused(inner):
    with pytest.raises(TypeError, match=r"invalid base_optimizer: \w+ \(it prunes by itself"):
        Directional(inner([nn.Parameter(torch.ones(2))]))


def test_a_base_that_is_refused_stays_as_it_was():
    base = SGD([{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(1j * torch.ones(2))]}])
    with pytest.raises(ValueError, match="Directional needs real"):
        Directional(base)
    assert len(base.param_groups) == 2


CLONE = {"itself": lambda x: x, "deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("clone", CLONE.values(), ids=CLONE)
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_step_of_the_base_is_noticed_once_and_those_of_the_wrapper_are_not(clone, scheduled):
    base = SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    if scheduled:
        LambdaLR(base, lambda n: 1.0)
    optimizer = clone(Directional(base, c=0.1))
    if scheduled:
        LambdaLR(optimizer, lambda n: 1.0)
    optimizer.step()
    copy.copy(optimizer).step()
    with pytest.warns(UserWarning, match=r"step of the base SGD was called, .* \(call step of Directional") as caught:
        optimizer.base.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.base.step()
        optimizer.step()


def test_a_base_whose_wrapper_is_gone_steps_alone():
    base = SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    Directional(base, c=0.1).step()
    base.step()


@pytest.mark.parametrize("name", ["betas", "eps"])
def test_directional_refuses_nan_in_any_number_of_its_base(name):
    p = nn.Parameter(torch.ones(3))
    optimizer = Directional(torch.optim.AdamW([p]), c=0.1)
    optimizer.param_groups[0][name] = (0.9, float("nan")) if name == "betas" else float("nan")
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=rf"invalid {name}: .*nan.* \(must not be NaN\)"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))
