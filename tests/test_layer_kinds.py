"""The kind of every parameter: by its owner, then by its shape, then by its name."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from directional_pruning import prunable_groups, sparsity_report
from directional_pruning.layer_kinds import PRUNABLE, parameter_kinds
from directional_pruning.runs import RECIPES


def owner(class_name="Block", **shapes):
    """A module of no known class that owns parameters of the given shapes."""
    module = type(class_name, (nn.Module,), {})()
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.ones(shape)))
    return module


def kinds_of(class_name="Block", **shapes):
    return list(parameter_kinds(owner(class_name, **shapes)).values())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 1),
        nn.Linear(1, 8),
        nn.Bilinear(1, 1, 4),
        nn.Conv2d(4, 1, 1),
        nn.Conv1d(4, 4, 1, groups=4),
        nn.ConvTranspose2d(1, 4, 1),
        nn.GRU(1, 1),
        nn.LSTM(3, 4, proj_size=2, bidirectional=True),
        nn.GRUCell(1, 2),
        nn.MultiheadAttention(1, 1, add_bias_kv=True),
        nn.MultiheadAttention(4, 2, kdim=3),
        nn.Embedding(1, 8),
        nn.EmbeddingBag(8, 1),
        nn.LazyLinear(4),
        nn.LazyConv2d(4, 3),
        prune.l1_unstructured(nn.Linear(8, 1), "weight", 0.5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_a_layer_owns_as_its_weight_is_prunable_in_any_shape_and_its_bias_is_not(layer):
    for name, kind in parameter_kinds(nn.ModuleDict({"layer": layer})).items():
        assert (kind == "bias") if "bias" in name else (kind in PRUNABLE), name


@pytest.mark.parametrize("shape", [(), (8,), (8, 1), (1, 8), (8, 1, 1), (1, 8, 1, 1), (1, 1, 8), (1, 1), (1, 1, 1, 1)])
def test_a_parameter_of_one_real_dimension_without_a_layer_is_a_scale_whatever_its_name(shape):
    for name in ("layer_scale", "temperature", "class_token", "weight", "proj", "a"):
        assert kinds_of(**{name: shape}) == ["norm"]


def test_matrices_without_a_layer_are_weights():
    names = ["weight", "in_proj", "w1", "W_q", "gate_up_proj", "kernel", "router", "text_projection", "mixing"]
    assert set(kinds_of(**dict.fromkeys(names, (6, 4)))) == {"weight"}
    assert set(kinds_of(experts=(3, 6, 4), down_proj=(1, 6, 4), w2=(1, 6, 4), filters=(6, 1, 3, 3))) == {"weight"}
    assert set(kinds_of(pos_proj=(6, 4), token_mixing_weight=(6, 4), scale_weight=(6, 4))) == {"weight"}


def test_tables_of_tokens_and_positions_without_a_layer_are_positions():
    names = ["pos_embed", "positional_embedding", "posEmbedding", "rel_pos_h", "height_rel", "cls_tokens", "latents"]
    names += [
        "registers",
        "prompts",
        "queries",
        "query_tokens",
        "level_embed",
        "query",
        "pe",
        "pos_enc",
        "ctx",
        "mem_kv",
    ]
    assert set(kinds_of(**dict.fromkeys(names, (6, 4)))) == {"position"}
    assert set(kinds_of(a=(1, 6, 4), b=(6, 1, 4), c=(1, 7, 7, 4))) == {"position"}
    assert kinds_of("LearnedPositionalEncoding", weight=(6, 4)) == ["position"]
    assert kinds_of("RelativePositionAttention", weight=(6, 4)) == ["weight"]


def test_the_query_of_an_attention_that_owns_its_three_matrices_is_a_weight():
    assert set(kinds_of(query=(4, 4), key=(4, 4), value=(4, 4))) == {"weight"}


def test_scales_of_several_dimensions_are_known_by_name_or_by_the_class_of_their_owner():
    assert set(kinds_of(A_log=(8, 4), weight_scale_inv=(2, 2), gamma=(3, 8), scale_shift_table=(6, 8))) == {"norm"}
    assert set(kinds_of(layerscale_1=(2, 8), lambda1=(4, 8), attn_temp=(4, 2), ls_gamma=(2, 8))) == {"norm"}
    assert kinds_of("GroupedRMSNorm", weight=(2, 8)) == ["norm"]
    assert kinds_of("NormLinear", weight=(2, 8)) == ["weight"]


def test_biases_are_known_by_name_in_any_shape():
    assert set(kinds_of(relative_position_bias_table=(9, 4), attention_biases=(4, 9), down_proj_bias=(3, 8))) == {
        "bias"
    }
    model = nn.ModuleDict({"relative_attention_bias": nn.Embedding(8, 2), "unbiased": nn.Linear(4, 4, bias=False)})
    assert list(parameter_kinds(model).values()) == ["bias", "weight"]


def test_a_layer_of_another_package_is_known_by_its_inputs_and_outputs():
    module = owner("SparseLinear", weight=(1, 8))
    module.in_features, module.out_features = 8, 1
    assert parameter_kinds(module) == {"weight": "weight"}


def test_entries_of_lists_and_dictionaries_have_the_name_of_their_container():
    model = nn.Module()
    model.prompts = nn.ParameterList([torch.ones(6, 4)])
    model.experts = nn.ParameterList([torch.ones(6, 4), torch.ones(8)])
    model.biases = nn.ParameterDict({"a": torch.ones(6, 4)})
    assert list(parameter_kinds(model).values()) == ["position", "weight", "norm", "bias"]
    assert parameter_kinds(nn.ParameterList([torch.ones(6, 4)])) == {"0": "weight"}


WEIGHT_NORM = [parametrizations.weight_norm, nn.utils.weight_norm]
SPECTRAL_NORM = [parametrizations.spectral_norm, nn.utils.spectral_norm]


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 4), lambda: nn.Conv2d(2, 4, 3), lambda: nn.Embedding(8, 4)])
@pytest.mark.parametrize("reparametrize", WEIGHT_NORM + SPECTRAL_NORM)
def test_a_weight_that_is_computed_from_a_parameter_makes_that_parametrized(reparametrize, make):
    kinds = parameter_kinds(reparametrize(make()))
    expected = {"parametrized", "norm"} if reparametrize in WEIGHT_NORM else {"parametrized"}
    assert {kind for name, kind in kinds.items() if "bias" not in name} == expected


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated:FutureWarning")
def test_other_parametrizations_and_one_weight_of_several_are_known():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2, 4))

        def forward(self, w):
            return w + self.a @ self.b

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", LowRank())
    parametrize.register_parametrization(layer, "bias", nn.Identity())
    kinds = parameter_kinds(layer)
    assert kinds.pop("parametrizations.bias.original") == "bias"
    assert set(kinds.values()) == {"parametrized"}
    assert set(parameter_kinds(parametrizations.orthogonal(nn.Linear(4, 4, bias=False))).values()) == {"parametrized"}
    kinds = parameter_kinds(nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"))
    assert [kinds[f"weight_{x}"] for x in ("ih_l0", "hh_l0_g", "hh_l0_v")] == ["weight", "norm", "parametrized"]
    assert set(kinds_of(w_g=(4, 4), w_v=(4, 4))) == {"weight"}  # gate and value, not a magnitude and a direction


def test_quantized_integers_and_complex_matrices():
    model = nn.Module()
    model.packed = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    model.small = nn.Parameter(torch.zeros(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    model.spectrum = nn.Parameter(torch.zeros(4, 4, dtype=torch.complex64))
    assert list(parameter_kinds(model).values()) == ["quantized", "quantized", "weight"]


def test_a_shared_parameter_has_one_kind_under_all_its_names():
    model = nn.ModuleDict({"head": nn.Linear(4, 7, bias=False), "tokens": nn.Embedding(7, 4)})
    model["head"].weight = model["tokens"].weight
    assert parameter_kinds(model) == {"head.weight": "embedding", "tokens.weight": "embedding"}


def test_a_lazy_parameter_of_an_unknown_layer_is_refused_until_the_first_run():
    module = nn.Module()
    module.table = nn.UninitializedParameter()
    with pytest.raises(ValueError, match=r"invalid model: 'layer.table' has no shape yet \(run the model once first\)"):
        parameter_kinds(nn.ModuleDict({"layer": module}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_prune_what_they_pruned_when_two_dimensions_were_the_rule(recipe):
    recipe = RECIPES[recipe]()
    with torch.device("meta"):
        model = recipe.network()
    matrices = {name for name, p in model.named_parameters() if p.ndim >= 2}
    everything = {name for name, _ in model.named_parameters()}
    apart = {name for name in matrices if name.startswith(("embedding.", "position.", "head."))}
    pruned = {(): everything, ("norm", "bias"): matrices}.get(recipe.skip, matrices - apart)
    assert {name for name, kind in parameter_kinds(model).items() if kind in PRUNABLE} == matrices
    assert set(prunable_groups(model, skip=recipe.skip)[0]["param_names"]) == pruned


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = SMALL | {"vocab_size": 32}


def torchvision(name):
    return pytest.importorskip("torchvision").models.get_model(name, weights=None)


def timm(name):
    return pytest.importorskip("timm").create_model(name)


def transformers(name, **options):
    package = pytest.importorskip("transformers")
    return getattr(package, f"{name}Model")(getattr(package, f"{name}Config")(**options))


# How to build a network -> its parameters of two or more dimensions that are spared, N for any number, with their kind.
# All its others of two or more dimensions are pruned, and none of fewer.
ARCHITECTURES = {
    "ConvNeXt": (lambda: torchvision("convnext_tiny"), {"features.N.N.layer_scale": "norm"}),
    "Swin": (lambda: torchvision("swin_t"), {"features.N.N.attn.relative_position_bias_table": "bias"}),
    "Swin 2": (lambda: torchvision("swin_v2_t"), {"features.N.N.attn.logit_scale": "norm"}),
    "ViT": (lambda: torchvision("vit_b_16"), {"class_token": "norm", "encoder.pos_embedding": "position"}),
    "DINOv3": (lambda: timm("vit_small_patch16_dinov3"), {"cls_token": "norm", "reg_token": "position"}),
    "XCiT": (lambda: timm("xcit_nano_12_p16_224"), {"cls_token": "norm", "blocks.N.attn.temperature": "norm"}),
    "CrossViT": (lambda: timm("crossvit_tiny_240"), {"pos_embed_N": "position", "cls_token_N": "norm"}),
    "LeViT": (
        lambda: timm("levit_128s"),
        {
            "stages.N.blocks.N.attn.attention_biases": "bias",
            "stages.N.downsample.attn_downsample.attention_biases": "bias",
        },
    ),
    "NF-ResNet": (
        lambda: timm("nf_resnet26"),
        {"stem.conv.gain": "norm", "stages.N.N.downsample.conv.gain": "norm", "stages.N.N.convN.gain": "norm"},
    ),
    "BERT": (lambda: transformers("Bert", **TEXT), {}),
    "Mixtral": (lambda: transformers("Mixtral", **TEXT, num_key_value_heads=2), {}),
    "Mamba": (
        lambda: transformers("Mamba", hidden_size=16, num_hidden_layers=1, vocab_size=32),
        {"layers.N.mixer.A_log": "norm"},
    ),
    "T5": (
        lambda: transformers("T5", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32),
        {f"{part}coder.block.N.layer.N.SelfAttention.relative_attention_bias.weight": "bias" for part in ("en", "de")},
    ),
    "wav2vec 2": (
        lambda: transformers("Wav2Vec2", **SMALL),
        {"encoder.pos_conv_embed.conv.parametrizations.weight.originalN": "parametrized"},
    ),
    "BLIP-2": (
        lambda: transformers(
            "Blip2",
            vision_config=SMALL,
            qformer_config=TEXT,
            text_config={**TEXT, "ffn_dim": 16, "word_embed_proj_dim": 16},
        ),
        {
            "query_tokens": "position",
            "vision_model.embeddings.class_embedding": "norm",
            "vision_model.embeddings.position_embedding": "position",
        },
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_networks_that_people_train_the_matrices_are_pruned_except(name):
    make, expected = ARCHITECTURES[name]
    with torch.device("meta"):
        model = make()
    kinds = parameter_kinds(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pruned = set(prunable_groups(model)[0]["param_names"])
    assert len(said) == ("parametrized" in kinds.values())
    matrices = {name for name, p in model.named_parameters() if p.ndim >= 2}
    assert pruned <= matrices
    assert {re.sub(r"\d+", "N", name): kinds[name] for name in sorted(matrices - pruned)} == expected


def test_what_is_pruned_is_what_the_report_calls_prunable():
    model = owner(layer_scale=(8, 1, 1), pos_embed=(1, 6, 4), experts=(3, 6, 4))
    model.head = nn.Linear(4, 1)
    assert [x.name for x in sparsity_report(model).prunable.layers] == ["experts", "head.weight"]
    assert prunable_groups(model)[0]["param_names"] == ["experts", "head.weight"]


@pytest.mark.parametrize("name", ["freqs", "shift", "multiplier", "h0", "slots", "sos", "W_pos", "sinks"])
def test_matrices_named_as_scales_states_and_tokens_are_spared(name):
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.randn(4, 5)))
    assert parameter_kinds(model)[name] in ("norm", "position")


def test_a_scale_of_ones_own_is_known_by_its_class():
    LayerScale = type("LayerScale", (nn.Module,), {})  # noqa: N806
    scale = LayerScale()
    scale.weight = nn.Parameter(torch.ones(4, 5))
    assert parameter_kinds(scale) == {"weight": "norm"}
