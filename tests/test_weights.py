"""The weights that layers use: plain, masked, parametrized, set by hooks, sharded, quantized."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from directional_pruning import GRDA, Directional, sparsity_report
from directional_pruning.tensors import count_nonzeros, obstacle
from directional_pruning.weights import layer_weights, plain_copy

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


class Half(nn.Module):
    """A parametrization that sets every other column to zero."""

    def forward(self, w):
        return w * (torch.arange(w.shape[1]) % 2)


class LowRank(nn.Module):
    """A parametrization with parameters of its own."""

    def __init__(self, rows, columns):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rows, 2)), nn.Parameter(torch.randn(2, columns))

    def forward(self, w):
        return w + self.a @ self.b


def old_norm(layer, function):
    function(layer, "weight")


def own_hook(layer):
    """What users wrote before parametrizations existed."""
    layer.weight_raw = layer.weight
    del layer.weight
    layer.register_forward_pre_hook(lambda m, _: setattr(m, "weight", m.weight_raw * (m.weight_raw > 0)))
    layer.weight = layer.weight_raw * 1.0


KINDS = {
    "plain": lambda layer: None,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.75),
    "pruned twice": lambda layer: (
        prune.l1_unstructured(layer, "weight", 0.5),
        prune.random_unstructured(layer, "weight", 0.5),
    ),
    "pruned by rows": lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0),
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
    "parametrized twice": lambda layer: (
        parametrizations.weight_norm(layer),
        parametrize.register_parametrization(layer, "weight", Half()),
    ),
    "low rank": lambda layer: parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape)),
    "orthogonal": parametrizations.orthogonal,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "pruned parametrization": lambda layer: (
        parametrize.register_parametrization(layer, "weight", Half()),
        prune.l1_unstructured(layer.parametrizations.weight, "original", 0.5),
    ),
    "own hook": own_hook,
}


def used(layer, x):
    """The weight that the forward pass multiplies by, read from its outputs."""
    with torch.no_grad():
        return (layer(x) - layer.bias).T


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_the_one_that_the_layer_multiplies_by_also_after_a_step(kind):
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    KINDS[kind](layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.randn(3, 8)).square().sum().backward()
    optimizer.step()
    weights = {weight.name: weight.value() for weight in layer_weights(layer)}
    assert set(weights) == {"weight", "bias"}
    assert not weights["weight"].requires_grad
    torch.testing.assert_close(weights["weight"], used(layer.eval(), torch.eye(8)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_to_ask_changes_nothing(kind):
    layer = nn.Linear(8, 6)
    KINDS[kind](layer)
    before = copy.deepcopy(layer.state_dict())
    attribute = vars(layer).get("weight")
    modes = [module.training for module in layer.modules()]
    report = sparsity_report(layer)
    assert modes == [module.training for module in layer.modules()]
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    assert vars(layer).get("weight") is attribute
    assert {x.name: x.shape for x in report.layers} == {"weight": (6, 8), "bias": (6,)}
    layer(torch.randn(2, 8)).sum().backward()  # the graph through the hooks still is there
    assert any(p.grad is not None for name, p in layer.named_parameters() if "bias" not in name)


@pytest.mark.parametrize(("kind", "zeros"), [("pruned", 36), ("pruned twice", 36), ("parametrized", 24)])
def test_the_zeros_of_a_mask_or_a_parametrization_are_counted(kind, zeros):
    layer = nn.Linear(8, 6)
    KINDS[kind](layer)
    weight = sparsity_report(nn.Sequential(layer, nn.ReLU())).layers[-1]
    assert (weight.name, weight.total - weight.nonzeros) == ("0.weight", zeros)
    assert weight.prunable == ("pruned" in kind)


def test_recurrent_and_convolutional_layers_have_their_masks_too():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LSTM(4, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.l1_unstructured(model[1], "weight_hh_l0", 0.5)
    found = {x.name: x.sparsity for x in sparsity_report(model).layers if x.sparsity}
    assert found == {"0.weight": 0.5, "1.weight_hh_l0": 0.5}


def test_plain_parameters_are_listed_as_named_parameters_lists_them():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.ParameterList([torch.ones(2, 2)]))
    model[2].weight = model[0].weight
    assert [w.name for w in layer_weights(model)] == [name for name, _ in model.named_parameters()]
    assert all(w.sources[0] is p and not w.remedy for w, p in zip(layer_weights(model), model.parameters()))


def test_a_shared_weight_with_one_mask_counts_once_and_with_two_masks_twice():
    def tied(amount):
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        prune.l1_unstructured(model[0], "weight", 0.5)
        prune.l1_unstructured(model[1], "weight", amount)
        return [(x.name, x.nonzeros) for x in sparsity_report(model).layers]

    assert tied(0.5) == [("0.weight", 8)]
    assert tied(0.25) == [("0.weight", 8), ("1.weight", 12)]


def test_a_weight_that_is_masked_in_one_layer_and_plain_in_another_is_listed_for_both():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert {(x.name, x.nonzeros) for x in sparsity_report(model).layers} == {("1.weight", 16), ("0.weight", 8)}


def test_tensors_that_layers_keep_beside_their_parameters_are_no_weights():
    class Attention(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    layer = Attention(4, 4)
    layer.register_forward_pre_hook(lambda m, inputs: inputs)
    layer(torch.ones(1, 4))
    assert [w.name for w in layer_weights(layer)] == ["weight", "bias"]


def test_a_hook_that_needs_the_inputs_is_refused_by_name():
    layer = nn.Linear(4, 4)
    layer.raw = layer.weight
    del layer.weight
    layer.register_forward_pre_hook(lambda m, inputs: setattr(m, "weight", m.raw * inputs[0].mean()))
    layer(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"cannot tell the weight '0.weight': a hook sets it \(make it a parameter"):
        sparsity_report(nn.Sequential(layer))


# What the optimizer prunes


@pytest.mark.parametrize("make", [lambda p: GRDA(p, lr=0.1), lambda p: Directional(torch.optim.SGD(p, lr=0.1))])
def test_the_report_says_what_the_optimizer_really_prunes(make):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[1].weight[:] = 0
    prune.identity(model[2], "weight")
    groups = [
        {"params": [model[0].weight, model[2].weight_orig], "c": 0.1},
        {"params": [model[1].weight, *(layer.bias for layer in model)], "c": 0.0},
    ]
    report = sparsity_report(model, torch.ones(1, 4), optimizer=make(groups))
    assert [x.name for x in report.pruned.layers] == ["0.weight", "2.weight"]
    assert (report.pruned.total, report.pruned.nonzeros) == (24, 16)
    assert str(report).splitlines()[-3].split()[:4] == ["pruned", "weights", "24", "16"]
    with pytest.raises(ValueError, match=r"call sparsity_report\(model, optimizer=optimizer\)"):
        _ = sparsity_report(model).pruned


def test_another_optimizer_prunes_nothing():
    layer = nn.Linear(4, 4)
    report = sparsity_report(layer, optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    assert report.pruned.total == 0


# Tensors whose values are elsewhere


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_every_dtype_is_counted():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.uint16, torch.bool, torch.complex64):
        assert count_nonzeros("w", torch.eye(3).to(dtype)) == 3
    assert count_nonzeros("w", torch.eye(3).to_sparse()) == 3
    assert count_nonzeros("w", torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)) == 3


def test_a_tensor_of_a_class_that_stores_codes_is_counted_by_its_values():
    torchao = pytest.importorskip("torchao.quantization")
    model = nn.Linear(64, 32)
    with torch.no_grad():
        model.weight[:8] = 0
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    report = sparsity_report(model, torch.randn(2, 64))
    weight = next(x for x in report.layers if x.name == "weight")
    assert weight.total == 64 * 32
    assert weight.nonzeros == int(model.weight.dequantize().count_nonzero()) <= 64 * 24
    assert weight.multiply_adds == 2 * 64 * 32
    assert "quantized, Int8Tensor (call its dequantize() first)" in obstacle(model.weight)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.Linear(2, 3, device="meta")])
def test_a_weight_without_values_is_named(make):
    with pytest.raises(ValueError, match=r"'0.weight': it has no values.* \(load or initialise it first\)"):
        sparsity_report(nn.Sequential(make()))


@pytest.mark.filterwarnings("ignore:.*FSDP", "ignore:.*FullyShardedDataParallel", "ignore::FutureWarning")
def test_weights_that_the_old_fsdp_has_flattened_are_refused_and_counted_when_it_gathers_them():
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = FullyShardedDataParallel(nn.Sequential(nn.Linear(8, 8)), device_id=torch.device("cpu"))
        with pytest.raises(ValueError, match=r"it has them flattened \(call it inside FullyShardedDataParallel.summon"):
            sparsity_report(model)
        with FullyShardedDataParallel.summon_full_params(model):
            assert [x.shape for x in sparsity_report(model).layers] == [(8, 8), (8,)]
    finally:
        distributed.destroy_process_group()


# A copy with plain parameters


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "own hook"])
def test_a_plain_copy_gives_the_same_outputs_from_ordinary_parameters(kind):
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    KINDS[kind](layer)
    layer(torch.randn(3, 8))
    model, x = nn.Sequential(layer), torch.randn(4, 8)
    plain = plain_copy(model)
    assert {name for name, _ in plain.named_parameters()} == {"0.weight", "0.bias"}
    assert torch.equal(plain(x), model.eval()(x))
    assert not layer_weights(plain)[0].remedy
    assert "weight" not in layer._parameters or kind == "plain"


def test_a_plain_copy_of_a_hook_of_ones_own_is_refused():
    layer = nn.Linear(8, 6)
    own_hook(layer)
    with pytest.raises(ValueError, match=r"'weight' that a hook sets \(first nn.Parameter\(layer.weight.detach"):
        plain_copy(nn.Sequential(layer))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_that_quantization_has_packed_are_refused_by_the_name_of_their_layer():
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4)})
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
    with pytest.raises(ValueError, match="cannot read the weights of 'rnn', a LSTM: it packs them"):
        layer_weights(packed)
