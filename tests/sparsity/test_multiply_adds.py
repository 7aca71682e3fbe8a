"""Multiply-adds of each kind of product against a closed form, and against torch's counter where that one is right."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from directional_pruning import sparsity_report


class Call(nn.Module):
    """A network with the given parameters, and a function of it and of the inputs as its forward pass."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, torch.Tensor) else value)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def counts(model, *inputs):
    """Multiply-adds of each weight that has some, and of the activations under None."""
    report = sparsity_report(model, inputs)
    found = {x.name: x.multiply_adds for x in report.layers if x.multiply_adds}
    return found | ({None: report.activation_multiply_adds} if report.activation_multiply_adds else {})


def torch_count(model, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() / 2


TIMES, B, IN, H, PROJECTED = 5, 2, 8, 16, 4
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "form"),
    [(nn.LSTM, "projected"), *itertools.product(GATES, ("plain", "batch first", "one sequence", "packed", "no bias"))],
)
def test_a_recurrent_layer_multiplies_each_weight_once_for_each_step_of_each_sequence(
    kind, form, bidirectional, layers
):
    settings = {
        "batch first": {"batch_first": True},
        "projected": {"proj_size": PROJECTED},
        "no bias": {"bias": False},
    }.get(form, {})
    model = kind(IN, H, layers, bidirectional=bidirectional, **settings)
    x = {"batch first": torch.randn(B, TIMES, IN), "one sequence": torch.randn(TIMES, IN)}.get(
        form, torch.randn(TIMES, B, IN)
    )
    steps = {"one sequence": TIMES}.get(form, TIMES * B)
    if form == "packed":
        x, steps = pack_sequence([torch.randn(length, IN) for length in (5, 3, 1)]), 5 + 3 + 1
    directions, out = 1 + bidirectional, PROJECTED if form == "projected" else H
    widths = [IN] + [directions * out] * (layers - 1)
    closed_form = sum(directions * GATES[kind] * H * (width + out) for width in widths)
    closed_form += layers * directions * H * PROJECTED * (form == "projected")
    found = counts(model, x)
    assert found == {name: steps * p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    assert sum(found.values()) == steps * closed_form


VECTOR, MATRIX, BATCH = torch.randn(8), torch.randn(16, 8), torch.randn(3, 8)
W = MATRIX.clone()
# name -> network, inputs, the counts by hand (None: activations), whether torch's counter has this product
PRODUCTS = {
    "matrix-vector": (Call(lambda m, x: m.w @ x, w=W), (VECTOR,), {"w": 128}, False),
    "vector-matrix": (Call(lambda m, x: x @ m.w.T, w=W), (VECTOR,), {"w": 128}, True),
    "linear of a vector": (nn.Linear(8, 16), (VECTOR,), {"weight": 128}, True),
    "dot": (Call(lambda m, x: torch.dot(x, m.w), w=VECTOR.clone()), (VECTOR,), {"w": 8}, False),
    "vdot": (Call(lambda m, x: torch.vdot(x, m.w), w=VECTOR.clone()), (VECTOR,), {"w": 8}, False),
    "weighted sum": (Call(lambda m, x: x @ m.w, w=VECTOR.clone()), (BATCH,), {"w": 24}, False),
    "addmv": (
        Call(lambda m, x: torch.addmv(m.b, m.w, x), b=torch.ones(16), w=W),
        (VECTOR,),
        {"w": 128},
        False,
    ),
    "addmm with a matrix as bias": (
        Call(lambda m, x: torch.addmm(m.b, x, m.w.T), b=torch.ones(3, 16), w=W),
        (BATCH,),
        {"w": 3 * 128},
        True,
    ),
    "baddbmm": (
        Call(lambda m, x: torch.baddbmm(m.b, x, m.w), b=torch.ones(2, 3, 5), w=torch.randn(2, 8, 5)),
        (torch.randn(2, 3, 8),),
        {"w": 2 * 3 * 8 * 5},
        True,
    ),
    "addbmm": (
        Call(lambda m, x: torch.addbmm(m.b, x, m.w), b=torch.ones(3, 5), w=torch.randn(2, 8, 5)),
        (torch.randn(2, 3, 8),),
        {"w": 2 * 3 * 8 * 5},
        False,
    ),
    "einsum": (Call(lambda m, x: torch.einsum("bi,oi->bo", x, m.w), w=W), (BATCH,), {"w": 3 * 128}, True),
    "einsum over experts": (
        Call(lambda m, x: torch.einsum("ebi,eio->ebo", x, m.w), w=torch.randn(4, 8, 6)),
        (torch.randn(4, 3, 8),),
        {"w": 4 * 3 * 8 * 6},
        True,
    ),
    "einsum of a matrix and a vector": (
        Call(lambda m, x: torch.einsum("oi,i->o", m.w, x), w=W), (VECTOR,), {"w": 128}, True
    ),
    "tensordot": (Call(lambda m, x: torch.tensordot(x, m.w, ([1], [1])), w=W), (BATCH,), {"w": 3 * 128}, True),
    "inner": (Call(lambda m, x: torch.inner(x, m.w), w=W), (BATCH,), {"w": 3 * 128}, True),
    "broadcast": (
        Call(lambda m, x: torch.matmul(m.w, x), w=W), (torch.randn(2, 3, 8, 5),), {"w": 2 * 3 * 16 * 8 * 5}, True
    ),
    "bilinear": (
        nn.Bilinear(4, 5, 3), (torch.randn(2, 4), torch.randn(2, 5)), {"weight": 2 * 3 * 20, None: 2 * 3 * 5}, False
    ),
    "dilated": (nn.Conv1d(4, 6, 3, dilation=2), (torch.randn(2, 4, 12),), {"weight": 2 * 6 * 4 * 3 * 8}, True),
    "grouped transposed": (
        nn.ConvTranspose1d(4, 6, 3, groups=2, stride=2), (torch.randn(2, 4, 7),), {"weight": 2 * 7 * 4 * 3 * 3}, True
    ),
    "dilated transposed": (
        nn.ConvTranspose2d(4, 6, 3, dilation=2, padding=1),
        (torch.randn(1, 4, 5, 5),),
        {"weight": 25 * 4 * 6 * 9},
        True,
    ),
    "convolution in 3 dimensions": (
        nn.Conv3d(2, 4, 3, padding=1), (torch.randn(1, 2, 4, 4, 4),), {"weight": 64 * 4 * 2 * 27}, True
    ),
    "sparse layout": (
        Call(lambda m, x: torch.sparse.mm(m.w, x.T), w=torch.ones(16, 8).to_sparse()), (BATCH,), {"w": 3 * 128}, False
    ),
    "embedding": (nn.Embedding(10, 4), (torch.tensor([[1, 2]]),), {}, True),
    "bag of embeddings": (nn.EmbeddingBag(10, 4), (torch.tensor([[1, 2]]),), {}, True),
    "elementwise": (Call(lambda m, x: x * m.w + m.w, w=VECTOR.clone()), (BATCH,), {}, True),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_product_counts_once_for_each_pair_that_is_multiplied(name):
    model, inputs, by_hand, torch_counts_it = PRODUCTS[name]
    assert counts(model, *inputs) == by_hand
    if torch_counts_it:
        assert torch_count(model, *inputs) == sum(by_hand.values())


@pytest.mark.parametrize("name", [name for name in PRODUCTS if name != "sparse layout"])
def test_a_zero_in_a_weight_takes_its_share_of_the_products_away(name):
    model, inputs, by_hand, _ = PRODUCTS[name]
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0).view(-1)[::2] = 0
    report = sparsity_report(model, inputs)
    of_weights = sum(number for weight, number in by_hand.items() if weight is not None)
    assert report.sparse_multiply_adds == of_weights // 2 + by_hand.get(None, 0)


@pytest.mark.parametrize("name", PRODUCTS)
def test_inference_mode_shows_the_same_products(name):
    model, inputs, by_hand, _ = PRODUCTS[name]
    with torch.inference_mode():
        assert counts(model, *inputs) == by_hand


SEQUENCE, WIDTH, HEADS = 6, 8, 2


@pytest.mark.parametrize("path", ["", "math", "flash inside", "grouped queries"])
def test_attention_is_two_products_of_activations_on_every_path(path):
    def forward(m, x):
        q, k, v = (y.view(B, SEQUENCE, HEADS, -1).transpose(1, 2) for y in m.qkv(x).chunk(3, -1))
        if path == "grouped queries":
            k, v = k[:, :1], v[:, :1]
        backend = SDPBackend.FLASH_ATTENTION if path == "flash inside" else SDPBackend.MATH
        with sdpa_kernel([backend] if path else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=path == "grouped queries")

    model = Call(forward, qkv=nn.Linear(WIDTH, 3 * WIDTH))
    assert counts(model, torch.randn(B, SEQUENCE, WIDTH)) == {
        "qkv.weight": B * SEQUENCE * 3 * WIDTH * WIDTH,
        None: 2 * B * SEQUENCE * SEQUENCE * WIDTH,
    }


@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_layer_is_counted_by_its_parts_though_torch_has_a_fused_one(padded):
    model = nn.TransformerEncoderLayer(WIDTH, HEADS, 3 * WIDTH, batch_first=True)
    inputs = (torch.randn(B, SEQUENCE, WIDTH), None, torch.zeros(B, SEQUENCE).bool() if padded else None)
    rows = B * SEQUENCE
    by_hand = {name: rows * p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    assert counts(model, *inputs) == by_hand | {None: 2 * rows * SEQUENCE * WIDTH}


def test_a_compiled_network_counts_as_the_network():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    assert sum(counts(torch.compile(model, backend="eager"), BATCH).values()) == 3 * (8 * 6 + 6 * 4)


def test_inputs_inside_any_object_are_activations():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 6)

        def forward(self, batch):
            x = self.second(self.first(batch.data["x"]))
            return x @ x.T

    batch = SimpleNamespace(data={"x": BATCH})  # not a container that torch looks into
    assert counts(Nested(), batch) == {"first.weight": 3 * 48, "second.weight": 3 * 36, None: 3 * 3 * 6}


# Weights in one storage


def test_parameters_that_are_views_of_one_buffer_are_counted_apart():
    buffer = torch.randn(16, 8)
    rows = Call(lambda m, x: (x @ m.top.T, x @ m.bottom.T), top=buffer[:4], bottom=buffer[4:])
    assert rows.top.untyped_storage().data_ptr() == rows.bottom.untyped_storage().data_ptr()
    assert counts(rows, BATCH) == {"top": 3 * 4 * 8, "bottom": 3 * 12 * 8}
    columns = Call(lambda m, x: (x[:, :3] @ m.left.T, x[:, 3:] @ m.right.T), left=buffer[:, :3], right=buffer[:, 3:])
    assert counts(columns, BATCH) == {"left": 3 * 16 * 3, "right": 3 * 16 * 5}


def test_a_product_with_the_buffer_itself_is_shared_among_the_parameters_in_it():
    buffer = torch.randn(16, 8)
    buffer[:4] = 0
    model = Call(lambda m, x: x @ buffer.T, top=buffer[:4], bottom=buffer[4:12])
    report = sparsity_report(model, BATCH)
    assert {x.name: x.multiply_adds for x in report.layers} == {"top": 3 * 4 * 8, "bottom": 3 * 8 * 8}
    assert {x.name: x.sparse_multiply_adds for x in report.layers} == {"top": 0, "bottom": 3 * 8 * 8}
    assert report.activation_multiply_adds == 3 * 4 * 8  # rows of the buffer that are no parameter


def test_a_head_tied_to_the_embedding_counts_its_product_and_not_the_look_up():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    assert counts(Tied(), torch.tensor([[1, 2, 3]])) == {"embedding.weight": 3 * 80}


def test_the_zeros_of_the_part_that_is_used_are_counted():
    weight = torch.ones(4, 8)
    weight[:2] = 0
    model = Call(lambda m, x: x @ m.w[2:].T, w=weight)
    layer = sparsity_report(model, BATCH).layers[0]
    assert (layer.multiply_adds, layer.sparse_multiply_adds, layer.nonzeros) == (3 * 2 * 8, 3 * 2 * 8, 16)


# Weights that are computed


def test_a_product_with_what_is_computed_from_a_weight_counts_under_the_weight_with_its_own_zeros():
    mask = (torch.arange(128) % 4 == 0).view(16, 8)
    model = Call(lambda m, x: F.linear(x, m.w * mask), w=W)
    model.mask = mask
    layer = sparsity_report(model, BATCH).layers[0]
    assert (layer.multiply_adds, layer.sparse_multiply_adds) == (3 * 128, 3 * 32)


def test_copies_of_the_weights_under_autocast_count_under_the_weights():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    with torch.autocast("cpu", torch.bfloat16):
        model(BATCH)
        assert counts(model, BATCH) == {"0.weight": 3 * 48, "1.weight": 3 * 24}


def test_weights_side_by_side_in_one_product_are_told_apart():
    model = Call(lambda m, x: F.linear(x, torch.cat([m.q, m.k])), q=torch.zeros(4, 8), k=torch.ones(2, 8))
    report = sparsity_report(model, BATCH)
    assert [(x.multiply_adds, x.sparse_multiply_adds) for x in report.layers] == [(96, 0), (48, 48)]


def test_learned_queries_are_activations_in_the_attention_and_a_low_rank_update_is_part_of_its_weight():
    queries = Call(
        lambda m, x: F.linear(m.latents, m.wq) @ F.linear(x, m.wk).T,
        latents=torch.randn(5, 8),
        wq=torch.randn(4, 8),
        wk=torch.randn(4, 8),
    )
    assert counts(queries, BATCH) == {"latents": 5 * 32, "wk": 3 * 32, None: 5 * 3 * 4}
    update = Call(lambda m, x: F.linear(x, m.w + m.b @ m.a), w=W, b=torch.randn(16, 2), a=torch.randn(2, 8))
    assert counts(update, BATCH) == {"w": 3 * 128, "b": 16 * 2 * 8}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", ["pruned", "orthogonal", "weight norm", "spectral norm", "old weight norm"])
def test_a_weight_that_is_computed_has_the_products_of_its_layer(kind):
    model = nn.Linear(8, 8)
    {
        "pruned": lambda: prune.l1_unstructured(model, "weight", 0.75),
        "orthogonal": lambda: parametrizations.orthogonal(model),
        "weight norm": lambda: parametrizations.weight_norm(model),
        "spectral norm": lambda: parametrizations.spectral_norm(model),
        "old weight norm": lambda: nn.utils.weight_norm(model),
    }[kind]()
    report = sparsity_report(model, BATCH)
    layer = next(x for x in report.layers if x.name == "weight")
    assert layer.multiply_adds == report.multiply_adds == 3 * 64
    assert layer.sparse_multiply_adds == layer.multiply_adds // (4 if kind == "pruned" else 1)
    assert len(report.layers) == 2


@pytest.mark.parametrize("kind", ["LSTM", "bilinear"])
def test_a_mask_on_a_layer_of_one_fused_operation_takes_its_products_away(kind):
    model = nn.LSTM(IN, H) if kind == "LSTM" else nn.Bilinear(4, 6, 3)
    inputs = (torch.randn(TIMES, B, IN),) if kind == "LSTM" else (torch.randn(2, 4), torch.randn(2, 6))
    name = "weight_ih_l0" if kind == "LSTM" else "weight"
    prune.l1_unstructured(model, name, 0.75)
    layer = next(x for x in sparsity_report(model, inputs).layers if x.name == name)
    expected = TIMES * B * 4 * H * IN if kind == "LSTM" else 2 * 3 * 4 * 6
    assert (layer.multiply_adds, layer.sparse_multiply_adds) == (expected, expected // 4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_two_products_of_activations():
    from torch.nn.attention.flex_attention import flex_attention

    def forward(m, x):
        q, k, v = (y.view(1, SEQUENCE, HEADS, -1).transpose(1, 2) for y in m.qkv(x).chunk(3, -1))
        return flex_attention(q, k, v)

    model = Call(forward, qkv=nn.Linear(WIDTH, 3 * WIDTH))
    found = counts(model, torch.randn(1, SEQUENCE, WIDTH))
    assert found == {"qkv.weight": SEQUENCE * 3 * WIDTH * WIDTH, None: 2 * SEQUENCE * SEQUENCE * WIDTH}


def test_a_linear_layer_counts_the_rows_of_nested_sequences():
    x = torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(3, 8)], layout=torch.jagged)
    assert counts(nn.Linear(8, 4), x) == {"weight": 5 * 32}


# Operations that hide products


def test_an_operation_of_somebody_else_that_takes_a_weight_is_named_in_a_warning():
    @torch.library.custom_op("directional_pruning_test::product", mutates_args=())
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w.T

    model = Call(lambda m, x: product(x, m.w), w=W)
    with pytest.warns(UserWarning, match=r"no multiply-adds of directional_pruning_test.product \(register") as caught:
        sparsity_report(model, BATCH)
    assert caught[0].filename == __file__
