"""Saved states that no optimizer wrote so are refused by name, and nothing is loaded."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from directional_pruning import GRDA, Directional

MAKE = {
    "GRDA": lambda params: GRDA(params, lr=0.1, c=0.01),
    "Directional": lambda params: Directional(SGD(params, lr=0.1), c=0.01),
}
COUNTERS = {"GRDA": "step", "Directional": "updates"}


def trained(name, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to(dtype)
    optimizer = MAKE[name](model.named_parameters())
    model(torch.ones(2, 4, dtype=dtype)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def refuses(optimizer, state, match):
    before = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()["state"]
    assert all(before[i][key].equal(after[i][key]) for i in before for key in before[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKE)
def test_a_saved_threshold_or_counter_that_is_no_number_from_0_on_is_refused(name, dtype):
    _, optimizer = trained(name, dtype)
    for key in ("threshold", COUNTERS[name]):
        for value in (math.nan, math.inf, -1.0):
            state = copy.deepcopy(optimizer.state_dict())
            state["state"][1][key] = torch.tensor(value)
            refuses(optimizer, state, rf"0.bias has a saved {key} of {value} \(must be >= 0 and finite\)")


@pytest.mark.parametrize("name", MAKE)
def test_a_saved_time_of_a_target_that_is_no_whole_number_from_0_on_is_refused(name):
    _, optimizer = trained(name, torch.float32)
    for value in (math.nan, math.inf, -1, 2.5, "many", None):
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0]["target_updates"] = value
        refuses(optimizer, state, f"invalid target_updates: {value!r} ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKE)
def test_a_state_of_the_same_parameters_in_another_order_is_refused(name, dtype):
    model, optimizer = trained(name, dtype)
    named = list(model.named_parameters())
    other = MAKE[name](named[2:] + named[:2])
    refuses(other, optimizer.state_dict(), "'1.weight' is in the place of the saved '0.weight'")
    renamed = MAKE[name]([(f"module.{key}", p) for key, p in named])
    renamed.load_state_dict(optimizer.state_dict())  # other names, the same order


@pytest.mark.parametrize("name", MAKE)
def test_what_is_no_state_dict_is_refused(name):
    _, optimizer = trained(name, torch.float32)
    refuses(optimizer, {}, "not a state dict of an optimizer: it has no 'state'")
