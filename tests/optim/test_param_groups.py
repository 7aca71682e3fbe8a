"""What prunable_groups prunes and what it spares."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from directional_pruning import GRDA, Directional, prunable_groups, sparsity_report


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 7)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        return self.head(self.scale * self.layer(self.tokens(x)))


def names(groups):
    return [set(group["param_names"]) for group in groups]


def test_every_parameter_lands_in_exactly_one_group_and_shared_ones_once():
    model = Transformer()
    groups = prunable_groups(model)
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())
    by_name = dict(model.named_parameters())
    assert all(by_name[name] is p for g in groups for name, p in zip(g["param_names"], g["params"], strict=True))


def test_normalisation_biases_and_scales_are_spared():
    prune, keep = names(prunable_groups(Transformer()))
    weights = {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}
    assert prune == {"tokens.weight"} | {f"layer.{name}" for name in weights}
    assert {"scale", "head.bias", "layer.norm1.weight", "layer.norm1.bias", "layer.self_attn.in_proj_bias"} <= keep


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm2d(4, affine=True)]
)
def test_every_kind_of_normalisation_is_known(norm):
    prune, keep = names(prunable_groups(nn.Sequential(nn.Conv2d(3, 4, 1), norm)))
    assert prune == {"0.weight"}
    assert "1.weight" in keep


def test_biases_are_known_by_their_names_in_recurrent_and_attention_layers():
    for model in (nn.LSTM(3, 4), nn.MultiheadAttention(4, 2), nn.LayerNorm([2, 4, 4])):
        wrapped = nn.ModuleList([model, nn.Linear(2, 2)])
        prune, keep = names(prunable_groups(wrapped))
        assert not any("bias" in name for name in prune)
        assert all("bias" in name or isinstance(model, nn.LayerNorm) for name in keep)
        assert any("bias" in name for name in names(prunable_groups(wrapped, skip=("norm",)))[0])


def test_a_layer_that_only_sounds_like_normalisation_is_pruned():
    class NormalizedLinear(nn.Linear):
        pass

    assert names(prunable_groups(nn.Sequential(NormalizedLinear(2, 2))))[0] == {"0.weight"}


def test_a_kind_or_a_pattern_of_names_can_be_skipped():
    model = Transformer()
    assert "tokens.weight" in names(prunable_groups(model, skip=("norm", "bias", "embedding")))[1]
    assert "tokens.weight" in names(prunable_groups(model, skip=("head.*",)))[1]  # a name of the shared tensor
    assert names(prunable_groups(model, skip="*.linear?.weight"))[1] == {"layer.linear1.weight", "layer.linear2.weight"}
    assert len(prunable_groups(model, skip=())) == 1


def test_what_is_pruned_is_what_the_report_calls_prunable():
    for model in (Transformer(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))):
        assert names(prunable_groups(model))[0] == {x.name for x in sparsity_report(model).prunable.layers}


def test_a_pattern_without_a_match_and_a_model_without_weights_are_refused():
    with pytest.raises(ValueError, match=r"invalid skip: 'haed.\*' \(must be one of norm, bias, embedding, "):
        prunable_groups(Transformer(), skip=("bias", "haed.*"))
    with pytest.raises(ValueError, match="nothing to prune"):
        prunable_groups(nn.LayerNorm(3))


def test_the_groups_train_under_grda_and_under_any_torch_optimizer():
    for make in (lambda groups: GRDA(groups, lr=0.1, c=3.0), lambda groups: torch.optim.AdamW(groups, lr=0.1)):
        torch.manual_seed(0)
        model = Transformer()
        optimizer = make(prunable_groups(model))
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(7)[None]).square().sum().backward()
            optimizer.step()
        report = sparsity_report(model)
        moved = dict(model.named_parameters())
        spared = [x for x in report.layers if not x.prunable and moved[x.name].grad.abs().min() > 0]
        assert spared
        assert all(x.sparsity == 0 for x in spared)
        assert (report.prunable.sparsity > 0) == isinstance(optimizer, GRDA)


class Scaled(nn.Module):
    """A residual block as in ConvNeXt, with a class token and a table of positions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.layer_scale = nn.Parameter(torch.full((4, 1, 1), 1e-6))
        self.pos_embed = nn.Parameter(torch.full((1, 4, 6, 6), 1e-6))
        self.token = nn.Parameter(torch.full((1, 4, 1, 1), 1e-6))

    def forward(self, x):
        x = x + self.pos_embed + self.token
        return x + self.layer_scale * self.conv(x)


def optimizers(groups):
    yield lambda: GRDA(groups, lr=0.1, c=0.3)
    yield lambda: Directional(torch.optim.AdamW(groups, lr=0.1), c=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", [0, 1], ids=["GRDA", "Directional"])
def test_scales_tokens_and_positions_of_any_shape_stay_dense(which, dtype):
    torch.manual_seed(0)
    model = Scaled().to(dtype)
    optimizer = list(optimizers(prunable_groups(model)))[which]()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4, 6, 6, dtype=dtype)).square().mean().backward()
        optimizer.step()
    assert not any((p == 0).any() for p in (model.layer_scale, model.pos_embed, model.token))
    assert (model.conv.weight == 0).any()


def test_kinds_that_are_spared_by_default_can_be_pruned():
    assert names(prunable_groups(Scaled(), skip=("norm", "bias")))[0] == {"conv.weight", "pos_embed"}
    assert len(prunable_groups(Scaled(), skip=())) == 1


def weight_normed():
    torch.manual_seed(0)
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(weight_norm(nn.Linear(16, 32)), nn.ReLU(), weight_norm(nn.Linear(32, 4)))


def train(model, optimizer, steps=60):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        loss.backward()
        optimizer.step()
    return loss


def test_parametrized_weights_are_spared_with_one_warning():
    model = weight_normed()
    with pytest.warns(UserWarning, match=r"not pruned: 2 parametrized weight\(s\), first '0.parametri.*NaN") as said:
        groups = prunable_groups(model)
    assert len(said) == 1
    assert said[0].filename == __file__
    directions = {f"{i}.parametrizations.weight.original1" for i in (0, 2)}
    assert (names(groups)[0], [group["c"] for group in groups]) == (directions, [0, 0])
    for make in optimizers(groups):
        optimizer = make()
        assert train(model, optimizer).isfinite()
        for flat in (False, True):
            options = StateDictOptions(flatten_optimizer_state_dict=flat)
            state = get_optimizer_state_dict(model, optimizer, options=options)
            set_optimizer_state_dict(model, optimizer, state, options=options)
    assert not any((p == 0).any() for name, p in model.named_parameters() if "original" in name)


def test_the_word_parametrized_or_a_pattern_accepts_that_they_are_spared():
    model = weight_normed().append(nn.Linear(4, 4))
    for skip in (("norm", "bias", "parametrized"), ("norm", "bias", "*.parametrizations.*")):
        assert names(prunable_groups(model, skip=skip))[0] == {"3.weight"}


def test_frozen_parametrized_weights_are_spared_without_a_word():
    model = weight_normed().requires_grad_(False).append(nn.Linear(4, 4))
    assert names(prunable_groups(model))[0] == {"3.weight"}


def test_a_removed_parametrization_leaves_a_prunable_weight():
    layer = nn.utils.parametrize.remove_parametrizations(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "weight"
    )
    assert names(prunable_groups(layer))[0] == {"weight"}


def test_weight_norm_with_every_parameter_pruned_ends_in_nan_and_not_in_zeros():
    model = weight_normed()
    loss = train(model, GRDA(model.parameters(), lr=0.1, c=0.3, mu=0.6), 100)
    assert loss.isnan()
    assert any(p.isnan().any() for p in model.parameters())


def test_quantized_parameters_are_in_no_group():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[1].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    prune, keep = prunable_groups(model)
    assert (prune["param_names"], keep["param_names"]) == (["0.weight"], ["0.bias"])
    GRDA([prune, keep], lr=0.1, c=0.1)


def test_lazy_layers_are_split_before_their_shapes_are_known():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))
    groups = prunable_groups(model)
    assert names(groups)[0] == {"0.weight", "3.weight"}
    model(torch.ones(2, 1, 6, 6)).square().sum().backward()
    GRDA(groups, lr=0.1, c=0.1).step()
    assert {x.name for x in sparsity_report(model).prunable.layers} == names(groups)[0]
