"""compact: the same function from fewer channels, on networks with planted dead channels of every kind."""

import copy
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from directional_pruning import sparsity_report
from directional_pruning.deploy.compaction import compact
from directional_pruning.models import digits_net

pytestmark = pytest.mark.slow


def randomize(model, seed=0):
    """Make everything random in float64, also the statistics, scales and shifts of batch norm."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.1)
                nn.init.normal_(module.bias, std=0.3)
    return model.double().eval()


def kill(layer, filters=(), inputs=()):
    with torch.no_grad():
        layer.weight[list(filters)] = 0
        layer.weight[:, list(inputs)] = 0


def shift(layer, channels, values):
    """Set biases of a layer, or shifts of a batch norm: the constants of dead filters."""
    with torch.no_grad():
        layer.bias[list(channels)] = torch.tensor(values).double()


def error(model, smaller, *shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = model(x), smaller(x)
    assert expected.shape == actual.shape
    assert expected.std() > 1e-3  # the outputs are not constant
    return float((expected - actual).abs().max() / expected.abs().max())


def widths(model):
    """Name -> (inputs, outputs) of every layer with weights."""
    weights = {name.removesuffix(".weight"): p for name, p in model.named_parameters() if p.ndim > 1}
    return {name: (weight.shape[1], weight.shape[0]) for name, weight in weights.items()}


def removed(model, smaller):
    """Name -> (inputs, outputs) removed, where any are."""
    after = widths(smaller)
    pairs = {name: (before[0] - after[name][0], before[1] - after[name][1]) for name, before in widths(model).items()}
    return {name: pair for name, pair in pairs.items() if pair != (0, 0)}


def count(model):
    return sum(p.numel() for p in model.parameters())


# Networks


def vgg16(divisor=8, classes=10):
    layers, inputs = [], 3
    for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inputs, width // divisor, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width // divisor
    hidden = 512 // divisor
    head = [nn.Dropout(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(hidden, classes))


class WideBlock(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, stride=stride, padding=1)
        self.shortcut = nn.Conv2d(inputs, width, 1, stride=stride) if inputs != width or stride != 1 else nn.Identity()

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out += self.shortcut(x)
        return out


class WideResNet(nn.Module):
    """The paper's, pre-activation; 28 layers deep."""

    def __init__(self, widen=1, classes=10, blocks=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        groups, inputs = [], 16
        for i, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range(blocks):
                groups.append(WideBlock(inputs, width, 2 if i and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*groups)
        self.bn, self.head = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        out = F.relu(self.bn(self.blocks(self.stem(x))))
        out = F.adaptive_avg_pool2d(out, 1)
        return self.head(out.view(out.size(0), -1))


class Block(nn.Module):
    def __init__(self, width, heads, kind):
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        n, tokens, width = x.shape
        if self.kind == "unbind":
            q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                part.view(n, tokens, self.heads, width // self.heads).transpose(1, 2)
                for part in self.qkv(x).chunk(3, dim=-1)
            )
        if self.kind == "written out":
            x = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, is_causal=self.kind == "causal")
        return self.proj(x.transpose(1, 2).contiguous().view(n, tokens, width))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, kind, width=24, heads=4, words=11):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(1, 12, width))
        self.blocks = nn.ModuleList(Block(width, heads, kind) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, ids):
        x = self.words(ids) + self.places[:, : ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


# Planted dead channels


def test_vgg16():
    model = randomize(vgg16())
    conv1, conv2, conv4, conv5, conv13, linear1, linear2 = (model[i] for i in (0, 2, 7, 10, 28, 33, 36))
    kill(conv1, filters=range(3))
    shift(conv1, range(3), [0.5, 0.25, -0.5])  # after ReLU one of the two constants carries both
    kill(conv2, inputs=[5])  # a dead input column removes its filter
    kill(conv4, filters=range(4))
    shift(conv4, range(4), [-0.1, -0.2, 0.0, -0.3])  # all end in zero
    kill(conv5, inputs=[6, 7])
    kill(conv13, filters=range(6))
    shift(conv13, range(6), [0.5] * 6)  # the next layer is linear: into its bias
    kill(linear1, filters=[0, 1, 2])  # hidden neurons, by their weights and
    kill(linear2, inputs=[8, 9])  # by the next layer's zeros
    smaller = compact(model, torch.randn(2, 3, 32, 32))
    assert max(error(model, smaller, 3, 3, 32, 32), error(model, smaller, 2, 3, 40, 45)) < 1e-12
    assert removed(model, smaller) == {
        "0": (0, 3), "2": (3, 0), "7": (0, 6), "10": (6, 0), "28": (0, 6), "33": (6, 5), "36": (5, 0),
    }  # fmt: skip


def test_wide_resnet():
    model = randomize(WideResNet())
    first, second, third, fourth = model.blocks[4:8]  # the middle group: 32 channels
    kill(first.conv1, filters=range(5))
    shift(first.bn2, range(5), [0.7, 0.1, 0.2, 0.3, -9.0])  # with a shift: four constants, one carries
    with torch.no_grad():
        second.bn2.weight[:4] = 0  # dead by batch norm's scale
        second.bn2.bias[:4] = -1.0
    kill(third.conv2, filters=[20, 21])  # in one branch only: the channel remains in the stream
    kill(fourth.conv1, inputs=[22])  # one block does not read it, others do
    dead = [0, 1, 2]  # in every branch: gone from the stream, but for one to carry their constants
    for block in (first, second, third, fourth):
        kill(block.conv2, filters=dead)
    kill(first.shortcut, filters=dead)
    smaller = compact(model, torch.randn(2, 3, 16, 16))
    assert max(error(model, smaller, 2, 3, 16, 16), error(model, smaller, 1, 3, 13, 22)) < 1e-12
    gone = removed(model, smaller)
    stream = gone["blocks.4.shortcut"][1]
    assert 1 <= stream <= 3
    assert gone["blocks.4.conv1"] == (0, 4)
    assert gone["blocks.4.conv2"] == (4, stream)
    assert gone["blocks.5.conv1"] == (stream, 4)
    assert gone["blocks.5.conv2"] == (4, stream)
    assert gone["blocks.8.conv1"] == gone["blocks.8.shortcut"] == (stream, 0)


def test_a_dead_branch_leaves_its_constant():
    model = randomize(WideResNet(blocks=2))
    dead, silent = model.blocks[1], model.blocks[3]
    kill(dead.conv2, filters=range(16))
    kill(silent.conv2, filters=range(32))
    shift(silent.conv2, range(32), [0.0] * 32)
    smaller = compact(model, torch.randn(2, 3, 16, 16))
    assert max(error(model, smaller, 2, 3, 16, 16), error(model, smaller, 1, 3, 13, 22)) < 1e-12
    names = {name for name, _ in smaller.named_parameters()}
    assert not {name for name in names if name.startswith(("blocks.1.", "blocks.3."))}
    assert "constant0" in names
    assert "constant1" not in names


def test_resnet50():
    resnet50 = pytest.importorskip("torchvision").models.resnet50
    model = randomize(resnet50(num_classes=10))
    block, other = model.layer2[1], model.layer3[2]
    kill(block.conv1, filters=range(40))
    shift(block.bn1, range(40), [0.5] * 20 + [-5.0] * 20)
    kill(block.conv2, inputs=range(60, 70))
    kill(block.conv2, filters=range(30))
    shift(block.bn2, range(30), [0.5] * 30)  # the next kernel is 1 x 1: into its bias
    kill(other.conv3, filters=range(50))
    with torch.no_grad():
        other.bn3.weight[50:80] = 0
    kill(model.fc, inputs=range(100))
    smaller = compact(model, torch.randn(1, 3, 40, 40))
    assert max(error(model, smaller, 1, 3, 40, 40), error(model, smaller, 2, 3, 33, 51)) < 1e-12
    gone = removed(model, smaller)
    assert gone["layer2.1.conv1"] == (0, 49)
    assert gone["layer2.1.conv2"] == (49, 30)
    assert gone["layer2.1.conv3"] == (30, 0)
    # The last stream: every block of the group adds to it, and only the classifier does not read it.
    assert "fc" not in gone
    assert not any(isinstance(module, nn.BatchNorm2d) for module in smaller.modules())


@pytest.mark.parametrize("kind", ["chunk", "unbind", "causal", "written out"])
def test_transformer(kind):
    model = randomize(Transformer(kind))
    for block in model.blocks:
        with torch.no_grad():
            weight, bias = block.qkv.weight.view(3, 4, 6, 24), block.qkv.bias.view(3, 4, 6)
            weight[0, :, 2], bias[0, :, 2] = 0, 0  # a query dimension
            weight[2, 0, 1] = weight[2, 1, 4] = weight[2, 2, 5] = 0  # a value dimension of each other head,
            bias[2, 2, 5] = 0  # constant or zero
            block.proj.weight.view(24, 4, 6)[:, 3] = 0  # a head that nothing reads
        kill(block.up, filters=range(5, 20))  # hidden neurons
        kill(block.down, inputs=range(40, 44))
    smaller = compact(model, torch.randint(11, (2, 9)))
    for shape in ((2, 9), (3, 12), (1, 1)):
        ids = torch.randint(11, shape)
        torch.testing.assert_close(smaller(ids), model(ids), rtol=0, atol=1e-12)
    # Three heads with five query, five key and five value dimensions; softmax(..) written out need not add up to 1.
    values = 6 if kind == "written out" else 5
    gone = removed(model, smaller)
    for i in (0, 1):
        assert gone[f"blocks.{i}.qkv"] == (0, 72 - 3 * (5 + 5 + values))
        assert gone[f"blocks.{i}.proj"] == (24 - 3 * values, 0)
        assert gone[f"blocks.{i}.up"] == (0, 19)
        assert gone[f"blocks.{i}.down"] == (19, 0)


# What every network gets


@pytest.fixture
def planted():
    model = randomize(digits_net())
    kill(model.conv1, filters=range(4))
    kill(model.conv2, filters=range(10), inputs=[30, 31])
    kill(model.classifier, inputs=range(20))
    return model


def test_the_result_is_an_ordinary_module(planted):
    before = {name: p.clone() for name, p in planted.state_dict().items()}
    smaller = compact(planted, torch.randn(1, 1, 8, 8, dtype=torch.float64))
    assert planted.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in planted.state_dict().items())
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    for duplicate in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert torch.equal(duplicate(x), smaller(x))
        duplicate.load_state_dict(smaller.state_dict())
    for p in smaller.parameters():
        assert p.is_leaf
        assert p.requires_grad
    smaller.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())
    assert smaller.conv2.in_channels == smaller.conv1.out_channels == smaller.conv1.weight.shape[0]


def test_compacting_again_finds_nothing(planted):
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    smaller = compact(planted, x)
    assert count(smaller) < count(planted)
    assert widths(compact(smaller, x)) == widths(smaller)


def test_zeros_stay_zeros_and_dtype_and_frozen_parameters_stay():
    model = randomize(digits_net()).float()
    kill(model.conv2, filters=range(10))
    with torch.no_grad():
        model.conv3.weight[torch.rand_like(model.conv3.weight) < 0.9] = 0
    model.classifier.weight.requires_grad_(False)
    x = torch.randn(1, 1, 8, 8)
    smaller = compact(model, x)
    torch.testing.assert_close(smaller(x), model(x))
    assert all(p.dtype == torch.float32 for p in smaller.parameters())
    assert not smaller.classifier.weight.requires_grad
    before, after = sparsity_report(model, x), sparsity_report(smaller, x)
    assert {layer.name: layer.sparsity > 0.85 for layer in after.layers}["conv3.weight"]
    assert after.nonzeros <= before.nonzeros
    assert after.multiply_adds < before.multiply_adds


def test_shared_layers_stay_whole_and_right():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.tied = nn.Linear(6, 6)
            self.tied.weight = self.last.weight

        def forward(self, x):
            return self.tied(F.relu(self.last(F.relu(self.shared(F.relu(self.shared(F.relu(self.first(x)))))))))

    model = randomize(Twice())
    kill(model.shared, filters=[0], inputs=[1])
    kill(model.last, filters=[2], inputs=[3])
    smaller = compact(model, torch.randn(2, 4))
    assert error(model, smaller, 7, 4) < 1e-12
    assert smaller.tied.weight is smaller.last.weight


def test_layers_called_as_functions():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.weight, self.bias = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4))
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            mean, var, scale, shift = self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
            x = F.conv2d(x, self.conv.weight, None, 2, padding=1)
            x = F.relu(F.batch_norm(x, mean, var, scale, shift, self.training, 0.1, self.norm.eps))
            x = F.linear(x.mean((2, 3)), self.weight, self.bias)
            return F.linear(x.tanh(), self.last.weight, bias=self.last.bias)

    model = randomize(Functions())
    kill(model.conv, filters=range(3))
    with torch.no_grad():
        model.weight[:1] = 0
    smaller = compact(model, torch.randn(2, 3, 9, 9))
    assert max(error(model, smaller, 3, 3, 9, 9), error(model, smaller, 2, 3, 12, 10)) < 1e-12
    assert sorted(widths(smaller).values()) == [(3, 3), (3, 5), (5, 3)]


def test_what_is_written_in_place_is_read_by_all():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.first(x)
            F.relu(x, inplace=True)
            x.add_(0.5)
            return x + self.second(x)

    model = randomize(InPlace())
    kill(model.first, filters=[0, 1])
    shift(model.first, [0, 1], [-1.0, 1.0])
    assert error(model, compact(model, torch.randn(2, 4)), 7, 4) < 1e-12


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_the_transformer_of_torch(batch_first, norm_first):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first, norm_first=norm_first)
    model = randomize(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    for layer in model.layers:
        with torch.no_grad():
            layer.self_attn.in_proj_weight.view(3, 4, 4, 16)[2, :, 1] = 0
            layer.self_attn.in_proj_bias.view(3, 4, 4)[2, :, 1] = 1.0
        kill(layer.linear1, filters=range(9))
    smaller = compact(model, torch.randn(3, 5, 16))
    assert error(model, smaller, 2, 7, 16) < 1e-12
    assert smaller.layers.get_submodule("0.linear1").out_features == 23
    assert smaller.layers.get_submodule("0.self_attn.v_proj").out_features == 12


class Unknown(nn.Module):
    """A convolution, an operation without a rule, and another two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = torch.fft.fft2(self.first(x)).real
        return self.third(F.relu(self.second(x)))


def test_unknown_operations_stay_untouched_with_a_note():
    model = randomize(Unknown())
    kill(model.first, filters=[0])
    kill(model.second, filters=[0])
    shift(model.second, [0], [-1.0])
    with pytest.warns(UserWarning, match=r"fft_fft2"):
        smaller = compact(model, torch.randn(1, 4, 8, 8))
    assert error(model, smaller, 2, 4, 8, 8) < 1e-12
    assert removed(model, smaller) == {"second": (0, 1), "third": (1, 0)}


def test_a_network_that_would_differ_is_refused():
    class Doubled(nn.Module):
        """Computes something else while it is traced."""

        def forward(self, x):
            return 2 * x if isinstance(x, torch.fx.Proxy) else x

    with pytest.raises(RuntimeError, match=r"the smaller network differs by .* of the largest output"):
        compact(nn.Sequential(nn.Linear(4, 3), Doubled()), torch.randn(2, 4))


def test_what_cannot_be_compacted_is_named():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Random(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(ValueError, match="invalid model: Branches cannot be traced"):
        compact(Branches(), torch.ones(2))
    with pytest.raises(RuntimeError, match="other outputs each time"):
        compact(Random(), torch.ones(2))
    with pytest.raises(TypeError, match="invalid model: int"):
        compact(3, torch.ones(2))
    with pytest.raises(TypeError, match="invalid example_inputs: str"):
        compact(digits_net(), "digits")


# Random networks


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


class Join(Residual):
    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Halves(nn.Module):
    """A gated linear unit, written with chunk."""

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return a * torch.sigmoid(b)


class Scale(nn.Module):
    """A layer scale and a shift, some of them zero."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, 1, 1) * (torch.rand(channels, 1, 1) > 0.3))
        self.register_buffer("shift", torch.randn(1, channels, 1, 1))

    def forward(self, x):
        return self.scale * x - self.shift


class Pixels(nn.Module):
    """A linear layer over the channels of each pixel, as in ConvNeXt and transformers."""

    def __init__(self, channels, norm):
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.up, self.down = nn.Linear(channels, 7), nn.Linear(7, channels)

    def forward(self, x):
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = self.down(F.gelu(self.up(self.norm(x))))
        return x.transpose(1, 2).reshape(n, c, h, w)


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(inputs, outputs, *args, **kwargs):
    return nn.Conv2d(inputs, outputs, *args, **kwargs), outputs


# Name -> a function of the channels to (layer, channels after it). All channel numbers are even.
LAYERS = {
    "conv": lambda c: conv(c, 8, 3, padding=1),
    "conv without bias": lambda c: conv(c, 6, 3, padding=1, bias=False),
    "conv 1x1": lambda c: conv(c, 8, 1),
    "conv valid": lambda c: conv(c, 6, 2),
    "conv strided": lambda c: conv(c, 8, 3, stride=2, padding=2, dilation=2),
    "conv reflect": lambda c: conv(c, 6, 3, padding=1, padding_mode="reflect"),
    "conv same": lambda c: conv(c, 8, (3, 1), padding="same"),
    "conv depthwise": lambda c: conv(c, c, 3, padding=1, groups=c),
    "conv depthwise doubling": lambda c: conv(c, 2 * c, 3, padding=1, groups=c),
    "conv grouped": lambda c: conv(c, 6, 3, padding=1, groups=2),
    "norm": lambda c: (nn.BatchNorm2d(c), c),
    "norm without scale": lambda c: (nn.BatchNorm2d(c, affine=False), c),
    "relu": lambda c: (nn.ReLU(), c),
    "relu6": lambda c: (nn.ReLU6(inplace=True), c),
    "gelu": lambda c: (nn.GELU(), c),
    "silu": lambda c: (nn.SiLU(inplace=True), c),
    "sigmoid": lambda c: (nn.Sigmoid(), c),
    "dropout": lambda c: (nn.Dropout(), c),
    "max": lambda c: (nn.MaxPool2d(3, 2, padding=1), c),
    "avg": lambda c: (nn.AvgPool2d(2, 1, padding=1), c),
    "avg of the inside": lambda c: (nn.AvgPool2d(2, 1, padding=1, count_include_pad=False), c),
    "upsample": lambda c: (nn.Upsample(scale_factor=2), c),
    "pad": lambda c: (nn.ZeroPad2d(1), c),
    "transposed": lambda c: (nn.ConvTranspose2d(c, 6, 2), 6),
    "group norm": lambda c: (nn.GroupNorm(2, c), c),
    "residual": lambda c: (Residual(nn.ReLU(), nn.Conv2d(c, c, 3, padding=1)), c),
    "residual norm": lambda c: (Residual(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1)), c),
    "join": lambda c: (Join(nn.Conv2d(c, 4, 3, padding=1), nn.ReLU()), c + 4),
    "gate": lambda c: (Gate(c), c),
    "halves": lambda c: (nn.Sequential(nn.Conv2d(c, 12, 1), Halves()), 6),
    "scale": lambda c: (Scale(c), c),
    "pixels": lambda c: (Pixels(c, norm=False), c),
    "pixels norm": lambda c: (Pixels(c, norm=True), c),
    "shuffle": lambda c: (Shuffle(), c),
}


def random_network(names, ending, seed):
    torch.manual_seed(seed)
    layers, channels = [], 4
    for name in names:
        layer, channels = LAYERS[name](channels)
        layers.append(layer)
    if ending == "classifier":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    elif ending == "flat":
        layers += [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3), nn.BatchNorm1d(3)]
    model = randomize(nn.Sequential(*layers), seed)
    draw = random.Random(seed)
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)) and weight is not None:
                weight[torch.rand(len(weight)) < draw.choice([0, 0.3])] = 0
            elif weight is not None and weight.ndim > 1:
                weight[torch.rand(weight.shape[0]) < draw.choice([0, 0.4, 0.8, 1])] = 0
                weight[:, torch.rand(weight.shape[1]) < draw.choice([0, 0.4, 0.8])] = 0
                weight[torch.rand_like(weight) < draw.choice([0, 0.5])] = 0
                if module.bias is not None:
                    module.bias[torch.rand(len(module.bias)) < draw.choice([0, 0.5])] = 0
    return model


@pytest.mark.filterwarnings("ignore:compact left untouched")
@settings(max_examples=40, deadline=None, phases=set(Phase) - {Phase.explain})
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=8),
    ending=st.sampled_from(["map", "classifier", "flat"]),
    seed=st.integers(0, 2**31),
)
def test_random_networks_stay_the_same_function(names, ending, seed):
    model = random_network(names, ending, seed)
    smaller = compact(model, torch.randn(2, 4, 9, 9))
    for shape in ((2, 4, 9, 9), (1, 4, 12, 10)):
        x = torch.randn(shape, dtype=torch.float64)
        expected = model(x.clone())
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(smaller(x.clone()) / scale, expected / scale, rtol=0, atol=1e-12)
    assert widths(compact(smaller, torch.randn(2, 4, 9, 9))) == widths(smaller)


def test_several_outputs_of_one_operation():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.pool, self.last = (
                nn.Conv2d(3, 6, 3),
                nn.MaxPool2d(2, return_indices=True),
                nn.Conv2d(6, 6, 1),
            )

        def forward(self, x):
            x, places = self.pool(F.relu_(self.first(x)))
            a, b = self.last(x).split([2, 4], dim=1)
            return {"sum": a.sum((2, 3)) + b[:, :2].amax((-1, -2)), "places": places}

    model = randomize(Pooled())
    kill(model.last, filters=[5])
    smaller = compact(model, torch.randn(2, 3, 9, 9))
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["masked", "parametrized", "compiled"])
def test_a_network_with_masks_or_parametrizations_is_compacted_as_the_plain_one(form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight[:16] = 0
        model[0].bias[:16] = 0
    if form == "masked":
        prune.custom_from_mask(model[0], "weight", (model[0].weight != 0).float())
        with torch.no_grad():
            model[0].weight_orig.add_(1)  # the zeros are those of the mask
    elif form == "parametrized":
        parametrizations.spectral_norm(model[0])
    x = torch.randn(5, 8)
    model(x).sum().backward()
    names = [name for name, _ in model.named_parameters()]
    smaller = compact(torch.compile(model, backend="eager") if form == "compiled" else model, x)
    assert sum(p.numel() for p in smaller.parameters()) == 16 * 8 + 16 + 4 * 16 + 4
    torch.testing.assert_close(smaller(x), model.eval()(x))
    assert names == [name for name, _ in model.named_parameters()]
