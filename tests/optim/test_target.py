"""A target: the share of zeros is exact under every optimizer, rate, precision and interruption."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from directional_pruning import GRDA, Directional, Target, prunable_groups, sparsity_report
from directional_pruning.optim import kernels
from directional_pruning.optim.quantile import BINS, Magnitudes, count, magnitude_at, magnitude_at_on_device
from directional_pruning.optim.threshold import cut

STEPS = 60
MAKE = {
    "grda": lambda groups, **options: GRDA(groups, lr=0.1, momentum=0.9, **options),
    "sgd": lambda groups, **options: Directional(SGD(groups, lr=0.1, momentum=0.9), **options),
    "adamw": lambda groups, **options: Directional(AdamW(groups, lr=0.01), power=4, **options),
}
SCHEDULES = {
    "constant": lambda optimizer: LambdaLR(optimizer, lambda t: 1.0),
    "warm-up from 0": lambda optimizer: LambdaLR(optimizer, lambda t: min(t / 10, 1.0)),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, STEPS),
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, STEPS + 1, cycle_momentum=False),
}
every_optimizer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 3)).to(dtype)


def train(model, optimizer, steps, scheduler=None, *, first=0):
    for step in range(first, first + steps):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def zeros(parameters):
    parameters = list(parameters)
    return sum(int((p == 0).sum()) for p in parameters), sum(p.numel() for p in parameters)


def pruned(optimizer):
    return [p for group in optimizer.param_groups if group["c"] > 0 for p in group["params"]]


def assert_share(optimizer, share):
    """The share of zeros is exact to one weight; where magnitudes are equal, no threshold comes nearer."""
    count, total = zeros(pruned(optimizer))
    magnitudes = torch.cat([optimizer.state[p]["dual"].abs().flatten() for p in pruned(optimizer)]).sort().values
    possible = [int((magnitudes <= g).sum()) for g in magnitudes.unique()]
    assert abs(count - share * total) <= min(abs(each - share * total) for each in possible) + 0.5
    assert all(
        int((p == 0).sum()) == int((optimizer.state[p]["dual"].abs() <= optimizer.state[p]["threshold"]).sum())
        for p in pruned(optimizer)
    )


@every_dtype
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@every_optimizer
def test_the_share_of_zeros_is_exact_in_the_end(make, schedule, dtype):
    model = network(dtype)
    optimizer = make(prunable_groups(model), target=Target(0.9, STEPS))
    train(model, optimizer, STEPS, schedule(optimizer))
    assert_share(optimizer, 0.9)


@every_optimizer
def test_training_that_ends_early_or_goes_on_has_the_share_too(make):
    model = network()
    optimizer = make(prunable_groups(model), target=Target(0.8, STEPS, end=0.5))
    for steps in (31, 8, 27, 30):
        train(model, optimizer, steps)
        assert_share(optimizer, 0.8)


@pytest.mark.parametrize("scope", ["global", "group", "layer"])
@every_optimizer
def test_the_scope_says_which_weights_share_a_threshold(make, scope):
    model = network()
    groups = [{"params": [model[0].weight, model[2].weight]}, {"params": [model[4].weight]}]
    optimizer = make(groups, target=Target(0.5, STEPS, scope=scope))
    train(model, optimizer, STEPS)
    sets = {
        "global": [[model[0].weight, model[2].weight, model[4].weight]],
        "group": [[model[0].weight, model[2].weight], [model[4].weight]],
        "layer": [[model[0].weight], [model[2].weight], [model[4].weight]],
    }
    for together in sets[scope]:
        count, total = zeros(together)
        assert count == round(0.5 * total)
        assert len({float(optimizer.state[p]["threshold"]) for p in together}) == 1


@every_optimizer
def test_each_group_may_have_a_target_of_its_own_or_none(make):
    model = network()
    groups = [
        {"params": [model[0].weight], "target": Target(0.5, STEPS)},
        {"params": [model[2].weight], "target": Target(0.9, STEPS)},
        {"params": [model[4].weight], "target": None, "c": 0.0},
    ]
    optimizer = make(groups)
    train(model, optimizer, STEPS)
    assert [zeros([model[i].weight])[0] for i in (0, 2, 4)] == [160, 1800, 0]


@pytest.mark.parametrize("scope", ["global", "group", "layer"])
@pytest.mark.parametrize("late", ["added", "rate 0", "no gradient"])
@every_optimizer
def test_what_begins_to_train_later_ends_with_the_same_share(make, late, scope):
    model = network()
    first, second = [model[0].weight], [model[2].weight, model[4].weight]
    groups = [{"params": second}] if late == "added" else [{"params": first}, {"params": second}]
    optimizer = make(groups, target=Target(0.8, STEPS, scope=scope))
    rate = optimizer.param_groups[0]["lr"]
    if late == "rate 0":
        optimizer.param_groups[0]["lr"] = 0.0
    first[0].requires_grad_(late != "no gradient")
    train(model, optimizer, STEPS // 2)
    if late == "added":
        optimizer.add_param_group({"params": first})
    optimizer.param_groups[0]["lr"] = rate
    first[0].requires_grad_(True)
    train(model, optimizer, STEPS // 2, first=STEPS // 2)
    assert_share(optimizer, 0.8)


@every_optimizer
def test_infinite_gradients_make_no_zeros(make):
    model = network()
    optimizer = make([layer.weight for layer in (model[0], model[2], model[4])], target=Target(0.9, 10, every=1))
    train(model, optimizer, 5)
    for _ in range(5):
        for p in pruned(optimizer):
            p.grad = torch.full_like(p, math.inf)
        optimizer.step()
    assert not any(p.isfinite().any() for p in pruned(optimizer))
    assert all(optimizer.state[p]["threshold"].isfinite() for p in pruned(optimizer))


@every_optimizer
def test_the_weights_follow_from_the_duals(make):
    model = network()
    optimizer = make(prunable_groups(model), target=Target(0.7, STEPS))
    train(model, optimizer, STEPS - 5)
    power = 64
    for p in pruned(optimizer):
        v, g = optimizer.state[p]["dual"], float(optimizer.state[p]["threshold"])
        expected = torch.where(v.abs() > g, v * (1 - (g / v.abs()) ** power), 0.0)
        torch.testing.assert_close(p.detach(), expected)
        assert not torch.signbit(p[p == 0]).any()


@pytest.mark.parametrize("scope", ["global", "layer"])
@every_optimizer
def test_the_power_of_the_cut_doubles_while_the_share_rises(make, scope):
    model = network()
    target = Target(0.9, STEPS, start=0.1, end=0.7, every=2, power=(2, 16), scope=scope)
    optimizer = make(prunable_groups(model), target=target)
    powers = []
    for _ in range(STEPS):
        train(model, optimizer, 1)
        powers.append(optimizer.param_groups[0].get("cut_power", 2))
        for p in pruned(optimizer):
            v, g = optimizer.state[p]["dual"], float(optimizer.state[p]["threshold"])
            expected = torch.where(v.abs() > g, v * (1 - (g / v.abs()) ** powers[-1]), 0.0)
            torch.testing.assert_close(p.detach(), expected)
    rise = range(1, 42)
    assert [powers[t - 1] for t in rise] == [target.power_at(t - t % 2) for t in rise]
    assert sorted(set(powers)) == [2, 4, 8, 16]
    assert set(powers[41:]) == {16}


@pytest.mark.parametrize("stop", [1, 7, 20, 44, 50])
@every_optimizer
def test_a_resumed_training_gives_the_same_bits(make, stop):
    whole = network()
    optimizer = make(prunable_groups(whole), target=Target(0.9, STEPS))
    train(whole, optimizer, STEPS)

    model = network()
    first = make(prunable_groups(model), target=Target(0.9, STEPS))
    train(model, first, stop)
    file = io.BytesIO()
    torch.save((model.state_dict(), first.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    model = network(seed=1)
    model.load_state_dict(weights)
    second = make(prunable_groups(model), target=Target(0.1, STEPS))  # the saved target counts
    second.load_state_dict(state)
    train(model, second, STEPS - stop, first=stop)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q)


@every_optimizer
def test_a_copy_goes_on_as_the_original(make):
    model = network()
    optimizer = make(prunable_groups(model), target=Target(0.9, STEPS))
    train(model, optimizer, 20)
    twin, copied = copy.deepcopy((model, optimizer))
    train(model, optimizer, 20, first=20)
    train(twin, copied, 20, first=20)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@every_optimizer
def test_a_step_at_rate_0_moves_nothing(make):
    model = network()
    optimizer = make(prunable_groups(model), target=Target(0.9, STEPS, end=0.5))
    train(model, optimizer, 40)
    before = copy.deepcopy(model.state_dict())
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 1)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr


@every_optimizer
def test_without_a_target_the_law_sets_the_threshold(make):
    models = [network(), network()]
    for model, options in zip(models, ({"c": 0.01}, {"c": 0.01, "target": None}), strict=True):
        train(model, make(prunable_groups(model), **options), 10)
    assert all(torch.equal(p, q) for p, q in zip(*(model.parameters() for model in models), strict=True))


def test_a_captured_target_has_the_time_of_the_parameter_with_the_most_updates():
    model = network()
    optimizer = GRDA(prunable_groups(model), lr=0.1, target=Target(0.9, STEPS), capturable=True, fused=False)
    model[0].weight.requires_grad_(False)
    train(model, optimizer, STEPS // 2)
    model[0].weight.requires_grad_(True)
    train(model, optimizer, STEPS // 2, first=STEPS // 2)
    assert_share(optimizer, 0.9)


def test_capturable_thresholds_equal_those_of_the_host():
    # The two thresholds between the same neighbours differ in their last digits, which a steep cut makes larger.
    target = Target(0.9, STEPS, every=1, power=8)
    models = [network(), network()]
    for model, capturable in zip(models, (False, True), strict=True):
        optimizer = GRDA(prunable_groups(model), lr=0.1, target=target, capturable=capturable, fused=False)
        train(model, optimizer, STEPS)
        count, total = zeros(pruned(optimizer))
        assert count == round(0.9 * total)
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "invalid sparsity: 1.0 "),
        ({"sparsity": math.nan}, "invalid sparsity: nan "),
        ({"sparsity": "much"}, "invalid sparsity: 'much' "),
        ({"steps": 0}, "invalid steps: 0 "),
        ({"steps": 1.5}, "invalid steps: 1.5 "),
        ({"start": 0.8}, "invalid end: 0.75 "),
        ({"end": 1.1}, "invalid end: 1.1 "),
        ({"every": 0}, "invalid every: 0 "),
        ({"scope": "row"}, "invalid scope: 'row' "),
        ({"of": "bytes"}, "invalid of: 'bytes' "),
        ({"power": 0.5}, "invalid power: 0.5 "),
        ({"power": math.nan}, "invalid power: nan "),
        ({"power": (8, 4)}, r"invalid power: \(8, 4\) "),
        ({"power": (8,)}, r"invalid power: \(8,\) "),
        ({"gradient_of_zeros": -0.1}, "invalid gradient_of_zeros: -0.1 "),
        ({"gradient_of_zeros": "half"}, "invalid gradient_of_zeros: 'half' "),
    ],
)
def test_a_bad_target_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Target(**{"sparsity": 0.9, "steps": 10, **arguments})


@every_optimizer
@pytest.mark.parametrize(("power", "cut"), [(1, 0.2), (2, 0.3), (8, 0.4 * (1 - 0.5**8)), (math.inf, 0.4)])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_the_cut_and_the_factor_by_hand(make, power, cut, factor):
    w = nn.Parameter(torch.tensor([[0.1, 0.2, -0.4, 1.0]]))
    optimizer = make([w], target=Target(0.5, 10, start=0.1, end=0.2, every=1, power=power, gradient_of_zeros=factor))
    for _ in range(2):  # at the second update the two smallest are zero: the threshold is 0.2
        w.grad = torch.zeros_like(w)
        optimizer.step()
    expected = torch.tensor([[0.0, 0.0, -cut, 1 - 0.2**power]])
    is_adamw = isinstance(getattr(optimizer, "base", None), AdamW)  # its weight decay moves the duals
    torch.testing.assert_close(w.detach(), expected, atol=2e-3 if is_adamw else 1e-6, rtol=0)
    before = optimizer.state[w]["dual"].clone()
    w.grad = torch.tensor([[0.01, math.nan, 0.01, 0.0]])
    optimizer.step()
    moved = before - optimizer.state[w]["dual"]
    assert moved[0, 1].isnan()
    assert w[0, 1].isnan()
    if not is_adamw:  # which divides by the size of the gradient
        torch.testing.assert_close(moved[0, [0, 2]], torch.tensor([0.001 * factor, 0.001]), atol=1e-6, rtol=0)


@every_optimizer
def test_weights_that_begin_at_zero_learn_as_all_until_the_threshold_rises(make):
    grads = [torch.tensor([[0.1, 0.2, -0.4, 1.0]]), torch.tensor([[0.3, -0.2, 0.4, 0.1]])]
    results = []
    for factor in (0.0, 1.0):
        w = nn.Parameter(torch.zeros(1, 4))
        optimizer = make([w], target=Target(0.5, 20, start=0.5, every=1, gradient_of_zeros=factor))
        for grad in grads:
            w.grad = grad.clone()
            optimizer.step()
            assert torch.equal(w.grad, grad)
        results.append(w)
    assert torch.equal(*results)
    assert results[0].all()


@every_optimizer
def test_a_share_that_equal_magnitudes_make_unreachable_is_said_once(make):
    w = nn.Parameter(torch.cat([torch.full((700,), 0.5), torch.linspace(1, 2, 300)]))
    optimizer = make([w], target=Target(0.4, 20))

    def steps(count):
        for _ in range(count):
            w.grad = torch.zeros_like(w)
            optimizer.step()

    steps(19)
    with pytest.warns(UserWarning, match=r"^target not reached: 70.00 % instead of 40.00 % zeros, because") as caught:
        steps(1)
    assert caught[0].filename == __file__
    steps(5)


@every_optimizer
def test_while_the_share_is_held_a_threshold_moves_only_where_it_has_to(make):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(100_000))
    optimizer = make([w], target=Target(0.9, 40, start=0.0, end=0.25))
    thresholds, shares = [], []
    for step in range(45):
        generator = torch.Generator().manual_seed(step)
        w.grad = 1e-3 * torch.randn(100_000, generator=generator)
        optimizer.step()
        shares.append(float((w == 0).float().mean()))
        thresholds.append(float(optimizer.state[w]["threshold"]))
        expected = torch.empty_like(w)
        cut(optimizer.state[w]["dual"], thresholds[-1], optimizer.param_groups[0].get("cut_power", 8), out=expected)
        torch.testing.assert_close(w.detach(), expected)
    held = shares[9:]
    assert max(abs(share - 0.9) for share in held) <= 1e-4
    assert abs(shares[39] - 0.9) <= 1e-5
    assert 1 < len(set(thresholds[9:])) < len(held)


@every_optimizer
def test_a_target_on_multiply_adds_counts_what_the_layers_use(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 5))
    x, used = torch.randn(1, 2, 8, 8), {"0.weight": 36, "3.weight": 1}  # 6 x 6 outputs of the convolution
    report = sparsity_report(model, x)
    counts = {layer.name: layer.multiply_adds for layer in report.layers}
    assert (counts["0.weight"], counts["3.weight"]) == (36 * 108, 1080)
    target = Target(0.6, 30, of="macs")
    optimizer = make(prunable_groups(model, multiply_adds=counts), target=target)
    for step in range(30):
        optimizer.zero_grad()
        model(torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
    saved = sum(used[name] * int((p == 0).sum()) for name, p in model.named_parameters() if name in used)
    assert abs(saved - 0.6 * (36 * 108 + 1080)) <= 36
    refused = pytest.raises(ValueError, match=r"invalid target: .* \(must be of weights, or get counts by")
    with refused:
        train(model := network(), make(prunable_groups(model), target=target), 1)
    for bad in ([-1], [math.nan], ["many"], [1, 1], None):
        w = nn.Parameter(torch.ones(1))
        w.grad = torch.ones(1)
        with refused:
            make([{"params": [w], "multiply_adds": bad}], target=target).step()
    with pytest.raises(ValueError, match=r"invalid multiply_adds: none of '0.weight' \(take"):
        prunable_groups(model, multiply_adds={})


def test_only_sparsity_and_steps_are_given_by_place():
    with pytest.raises(TypeError):
        Target(0.9, 10, 0.1)  # pyrefly: ignore


@every_optimizer
def test_a_target_that_is_none_is_refused_when_given_and_when_changed(make):
    with pytest.raises(ValueError, match=r"invalid target: 0.9 \(must be a Target, such as"):
        make(prunable_groups(network()), target=0.9)
    model = network()
    optimizer = make(prunable_groups(model), target=Target(0.9, STEPS))
    optimizer.param_groups[0]["target"] = 0.5
    with pytest.raises(ValueError, match=r"invalid target: 0.5"):
        train(model, optimizer, 1)
    optimizer.param_groups[0]["target"] = (0.9, STEPS)
    with pytest.raises(ValueError, match=r"invalid target: \(0.9, 60\) \(must be a Target"):
        train(model, optimizer, 1)


tensors = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), st.integers(0, 10**6)),
    min_size=1,
    max_size=5,
)


@given(tensors, st.floats(0, 0.9999), st.floats(0, 3))
@settings(deadline=None, max_examples=30)
def test_the_magnitude_at_a_share_is_that_of_a_sort(specs, share, near):
    # Seeds differ, for equal magnitudes are zero together.
    seeds = [torch.Generator().manual_seed(10**7 * i + seed) for i, (_, _, seed) in enumerate(specs)]
    vs = [scale * torch.randn(n, generator=seed) for (n, scale, _), seed in zip(specs, seeds, strict=True)]
    magnitudes = torch.cat(vs).abs().sort().values
    if not len(magnitudes):
        return
    g = magnitude_at(share, [Magnitudes(vs)], near=near).g
    assert abs(int((magnitudes <= g).sum()) - share * len(magnitudes)) <= 1
    on_device = magnitude_at_on_device(torch.tensor(share, dtype=torch.float64), [Magnitudes(vs)])
    assert abs(int((magnitudes <= on_device).sum()) - share * len(magnitudes)) <= 1


def test_costs_that_are_not_whole_numbers_give_the_share_too():
    torch.manual_seed(0)
    parts = [Magnitudes([torch.randn(20)], 0.1), Magnitudes([torch.randn(30)], 1 / 3), Magnitudes([torch.zeros(5)], 0)]
    for i in range(1, 20):
        g, share = magnitude_at(i / 20, parts)
        counted = sum(cost * int((v[0].abs() <= g).sum()) for v, cost, _ in parts) / 12
        assert share == pytest.approx(counted)
        assert abs(share - i / 20) <= 1 / 3 / 12


def test_a_cost_weighs_the_elements():
    cheap, dear = torch.arange(1.0, 101.0), torch.arange(101.0, 201.0)
    g = magnitude_at(0.5, [Magnitudes([cheap], 1.0), Magnitudes([dear], 3.0)]).g
    assert 133.0 <= g < 134.0  # 100 * 1 + 33 * 3 = 199, the nearest to a half of 400


def test_not_a_number_is_larger_than_everything():
    v = torch.tensor([1.0, math.nan, 2.0, math.inf])
    assert magnitude_at(0.5, [Magnitudes([v])]) == (2.0, 0.5)


@pytest.mark.skipif(not kernels.available(), reason="needs the compiled kernel")
@pytest.mark.parametrize(("low", "shift"), [(0, 20), (1_000_000_000, 8), (1_060_000_000, 0)])
def test_the_kernel_counts_as_torch_does(low, shift):
    torch.manual_seed(0)
    vs = [torch.randn(n) for n in (1, 31, 32, 33, 100_000, 0, 300_001)]
    vs.append(torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45]))
    by_kernel = count(vs, low, shift)
    by_torch = count([v.to(torch.float64) for v in vs], low, shift)
    assert by_kernel.shape == (BINS + 2,)
    assert torch.equal(by_kernel, by_torch)
    assert int(by_kernel.sum()) == sum(v.numel() for v in vs)
