"""Averages of the weights that keep the zeros, in torch's AveragedModel and in Lightning's callbacks."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from directional_pruning import GRDA, Directional, sparse_average

DECAYS = [None, 0.0, 0.9, 1.0]
WAYS = ["avg_fn", "multi_avg_fn"]
OPTIMIZERS = {
    "grda": lambda p: GRDA(p, lr=0.1, c=0.05, mu=0.6),
    "directional": lambda p: Directional(torch.optim.AdamW(p, lr=0.01), c=1.0),
}


class Net(nn.Module):
    """Two dtypes, and buffers of three."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.to(dtype)
        self.extra = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, x):
        return self.last(self.norm(self.first(x))) + self.extra.sum().to(x.dtype)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(32, 16).to(model.first.weight.dtype)).square().mean().backward()
    optimizer.step()


def pairs(averaged, model):
    return zip(averaged.module.state_dict().values(), model.state_dict().values(), strict=True)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_average_has_the_zeros_of_the_weights_and_integers_are_those_of_the_network(
    make, dtype, decay, way, use_buffers
):
    model = Net(dtype)
    optimizer = make(model.parameters())
    averaged = AveragedModel(model, use_buffers=use_buffers, **{way: sparse_average(decay)})
    for _ in range(12):
        step(model, optimizer)
        averaged.update_parameters(model)
        model.mask.logical_not_()
    model.mask.logical_not_()
    zeros = 0
    for a, w in pairs(averaged, model):
        assert a.dtype == w.dtype
        if w.is_floating_point():
            zeros += int((w == 0).sum())
            assert not a[w == 0].any()
            assert not a[w == 0].signbit().any()
        else:
            assert torch.equal(a, w)
    assert zeros > 20
    assert averaged.module.first.weight.count_nonzero() > 20
    if decay is None and dtype == torch.float32:
        plain = AveragedModel(model, use_buffers=use_buffers)
        assert not torch.equal(averaged.module.first.weight, plain.module.first.weight)


@pytest.mark.parametrize("way", WAYS)
def test_a_plain_average_loses_the_zeros_that_this_one_keeps(way):
    model = Net()
    optimizer = OPTIMIZERS["grda"](model.parameters())
    plain, ours = AveragedModel(model), AveragedModel(model, **{way: sparse_average()})
    for _ in range(30):
        step(model, optimizer)
        plain.update_parameters(model)
        ours.update_parameters(model)
    zeros = [int((m.first.weight == 0).sum()) for m in (model, ours.module, plain.module)]
    assert zeros[0] == zeros[1] > 2 * zeros[2]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, 3.25]), min_size=3, max_size=3), min_size=1, max_size=6)
)
@pytest.mark.parametrize("decay", DECAYS)
def test_both_ways_give_the_average_of_the_definition(decay, history):
    def expected(number):
        a = history[0][number]
        for n, row in enumerate(history[1:], start=1):
            w = row[number]
            if w == 0 or a == 0:
                a = w
            else:
                a += (w - a) / (n + 1) if decay is None else (w - a) * (1 - decay)
        return a

    model = nn.ParameterList([torch.tensor(history[0], dtype=torch.float64)])
    both = [AveragedModel(model, **{way: sparse_average(decay)}) for way in WAYS]
    for row in history:
        with torch.no_grad():
            model[0].copy_(torch.tensor(row, dtype=torch.float64))
        for averaged in both:
            averaged.update_parameters(model)
    for averaged in both:
        torch.testing.assert_close(
            averaged.module[0].detach(), torch.tensor([expected(i) for i in range(3)], dtype=torch.float64)
        )


def test_where_no_weight_is_zero_it_is_the_average_of_torch():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for decay, theirs in (
        (None, torch.optim.swa_utils.get_swa_avg_fn()),
        (0.8, torch.optim.swa_utils.get_ema_avg_fn(0.8)),
    ):
        both = AveragedModel(model, avg_fn=sparse_average(decay)), AveragedModel(model, avg_fn=theirs)
        for _ in range(5):
            step(model, optimizer)
            for averaged in both:
                averaged.update_parameters(model)
        for a, b in zip(both[0].parameters(), both[1].parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_weight_that_revives_starts_from_its_value():
    average = sparse_average()
    a = torch.tensor([5.0])
    for n, w in enumerate((0.0, 0.0, 4.0, 6.0), start=1):
        a = average(a, torch.tensor([w]), n)
    torch.testing.assert_close(a, torch.tensor([4.0 + 2.0 / 5]))


def test_an_average_in_float32_of_a_network_in_half_precision_keeps_small_changes():
    model = nn.Linear(4, 4).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    averaged = AveragedModel(model, avg_fn=sparse_average(0.999))
    averaged.module.float()
    averaged.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.weight[0] = 0
    for _ in range(3):
        averaged.update_parameters(model)
    assert averaged.module.weight.dtype == torch.float32
    assert not averaged.module.weight[0].any()
    torch.testing.assert_close(averaged.module.weight[1:], torch.full((3, 4), 2 - 0.999**3))


def test_numbers_that_are_not_finite_complex_and_empty():
    average = sparse_average()
    nan = average(torch.ones(2), torch.tensor([float("nan"), float("inf")]), 1)
    assert nan[0].isnan()
    assert nan[1].isinf()
    mean = average(torch.tensor([2 + 2j, 1j]), torch.tensor([4 + 0j, 0j]), torch.tensor(1))
    assert mean.tolist() == [3 + 1j, 0]
    assert average(torch.empty(0), torch.empty(0), 1).numel() == 0


def test_it_goes_on_from_a_saved_average():
    model = Net()
    optimizer = OPTIMIZERS["grda"](model.parameters())
    averaged = AveragedModel(model, multi_avg_fn=sparse_average(0.9))
    for _ in range(4):
        step(model, optimizer)
        averaged.update_parameters(model)
    file = io.BytesIO()
    torch.save(averaged.state_dict(), file)
    file.seek(0)
    again = AveragedModel(copy.deepcopy(model), multi_avg_fn=sparse_average(0.9))
    again.load_state_dict(torch.load(file))
    step(model, optimizer)
    for each in (averaged, again):
        each.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_out_of_range_is_named(decay):
    with pytest.raises(ValueError, match=f"invalid decay: {decay} "):
        sparse_average(decay)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*does not have many workers", "ignore:.*isinstance")
@pytest.mark.parametrize("callback", ["WeightAveraging", "StochasticWeightAveraging"])
def test_the_callbacks_of_lightning_end_with_the_zeros_of_the_weights(callback, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    torch.manual_seed(0)
    last = {}

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))

        def training_step(self, batch, _):
            return self.net(batch[0]).square().mean()

        def validation_step(self, batch, _):
            self.net(batch[0])

        def configure_optimizers(self):
            return GRDA(self.parameters(), lr=0.1, c=0.05, mu=0.6)

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            last.update({name: t.clone() for name, t in self.net.state_dict().items()})

    options = {"avg_fn": sparse_average()}
    if callback == "StochasticWeightAveraging":
        options |= {"swa_lrs": 0.05, "swa_epoch_start": 2}
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 16)), batch_size=8)
    module = Module()
    callbacks = [getattr(lightning.callbacks, callback)(**options)]
    lightning.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=callbacks,
    ).fit(module, data, data)  # fmt: skip
    weight = module.net[0].weight
    assert (last["0.weight"] == 0).sum() > 20
    assert not torch.equal(weight, last["0.weight"])
    if callback == "WeightAveraging":  # it takes in the weights after every step, the other at the start of an epoch
        assert torch.equal(weight == 0, last["0.weight"] == 0)
    assert (weight == 0).sum() > 10
