"""The paper's networks, and building a network by its name."""

import sys

import pytest
import torch
from torch import nn

from directional_pruning import compact, prunable_groups
from directional_pruning.models import build, digits_net, vgg16, vgg16_bn, wrn28x10
from directional_pruning.models.wide_resnet import WideResNet


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("vgg16", 10, 15_245_130),
        ("vgg16_bn", 10, 15_253_578),
        ("wrn28x10", 10, 36_489_290),
        ("wrn28x10", 100, 36_546_980),
        ("torchvision:resnet50", 1000, 25_557_032),
        ("timm:resnet50", 1000, 25_557_032),
        ("digits_net", 10, 94_186),
    ],
)
def test_the_networks_have_as_many_parameters_as_the_papers(name, classes, parameters):
    with torch.device("meta"):
        assert count(build(name, classes)) == parameters


def test_vgg16_is_the_papers():
    torch.manual_seed(0)
    model = vgg16()
    kinds = [type(layer).__name__ for layer in model.modules()]
    assert (kinds.count("Conv2d"), kinds.count("MaxPool2d"), kinds.count("Linear")) == (13, 5, 3)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert "BatchNorm2d" not in kinds
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert not layer.bias.any()
            expected = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.06 if layer.in_channels == 3 else 0.01)
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in vgg16_bn().modules()) == 13


def test_wrn28x10_is_the_papers():
    with torch.device("meta"):
        model = wrn28x10(100)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is not None for layer in convolutions)
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) == 25  # with the classifier and two shortcuts: 28
    assert [layer.stride for layer in convolutions if layer.kernel_size == (1, 1)] == [(1, 1), (2, 2), (2, 2)]
    first = model.stages[1][0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [0.1] * 24 + [0.9]


def test_a_shortcut_starts_from_the_blocks_input():
    model = WideResNet(10, depth=10, widen=1).eval()
    block = model.stages[0][0]
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        x = -torch.rand(1, 16, 4, 4)  # an activation would set it to zero
        assert torch.equal(block(x), x)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="invalid depth: 12"):
        WideResNet(10, depth=12, widen=1)


def test_the_paper_prunes_everything_and_the_networks_compact():
    model = vgg16()
    (group,) = prunable_groups(model, skip=())
    assert sum(p.numel() for p in group["params"]) == 15_245_130
    small = WideResNet(10, depth=10, widen=1).eval()
    with torch.no_grad():
        small.stages[0][0].conv1.weight[3].zero_()
        small.stages[0][0].conv1.bias[3].zero_()
        small.stages[0][0].norm2.weight[3], small.stages[0][0].norm2.bias[3] = 0, 0
    x = torch.randn(2, 3, 32, 32)
    smaller = compact(small, x)
    assert count(smaller) < count(small)
    torch.testing.assert_close(smaller(x), small(x), rtol=1e-5, atol=1e-5)


def test_any_network_of_torchvision_and_timm_has_the_classes_it_should():
    with torch.device("meta"):
        assert build("torchvision:resnet18", 7).fc.out_features == 7
        assert build("timm:resnet10t", 7).get_classifier().out_features == 7
        assert type(build("vgg16", 10)) is type(build("vgg16", 5))  # this package's network comes before torchvision's
        assert type(build("resnet18", 3)).__module__.startswith("torchvision")
        assert type(build("resnet10t", 3)).__module__.startswith("timm")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"unknown model: nothing \(there is: chars_net, digits_net, vgg16, "),
        ("timm:nothing", r"unknown model: timm:nothing \(not in timm\)"),
        ("hub:resnet50", r"invalid model: hub:resnet50 \(must be NAME, torchvision:NAME or timm:NAME\)"),
        ("", "unknown model: "),
    ],
)
def test_an_unknown_network_is_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(name, 10)
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchvision need it installed: pip install .*\[vision\]"):
        build("torchvision:resnet50", 10)

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr("directional_pruning.models.by_name.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match=r"torchvision is installed but cannot be imported \(operator") as it:
        build("torchvision:resnet50", 10)
    assert "\n" not in str(it.value)
    with pytest.raises(
        ValueError, match=r"unknown model: nope \(there is: chars_net, .*; but torchvision is installed"
    ):
        build("nope", 10)
    assert count(build("digits_net", 10)) == count(digits_net())  # the package's networks need neither
