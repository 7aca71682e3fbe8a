"""Zeros and multiply-adds against counting by hand."""

import pytest
import torch
from torch import nn

from directional_pruning import GRDA, prunable_groups, sparsity_report
from directional_pruning.models import digits_net


def plant_zeros(model, every):
    """Set every k-th entry of each parameter to zero; return how many."""
    planted = 0
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0).view(-1)[::every] = 0.0
            planted += len(p.view(-1)[::every])
    return planted


def test_zeros_are_counted_over_all_and_over_prunable_parameters():
    model = digits_net()
    report = sparsity_report(model)
    assert report.total == sum(p.numel() for p in model.parameters()) == 94_186
    planted = plant_zeros(model, 3)
    report = sparsity_report(model)
    assert report.total - report.nonzeros == planted
    assert report.sparsity == pytest.approx(planted / 94_186)
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert report.prunable.total == sum(p.numel() for p in weights)
    assert report.prunable.nonzeros == sum(int(p.count_nonzero()) for p in weights)
    assert [x.name for x in report.layers] == [name for name, _ in model.named_parameters()]


def test_what_is_no_network_or_no_optimizer_of_it_is_named():
    layer = nn.Linear(2, 2)
    for ask in (sparsity_report, prunable_groups):
        with pytest.raises(TypeError, match=r"invalid model: OrderedDict \(must be a torch.nn.Module\)"):
            ask(layer.state_dict())
    with pytest.raises(ValueError, match="invalid optimizer: it has no parameter of the model"):
        sparsity_report(layer, optimizer=GRDA(nn.Linear(2, 2).parameters()))


def test_nan_that_weight_norm_makes_of_an_empty_row_is_said():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with torch.no_grad():
        layer.parametrizations.weight.original1[0] = 0
    with pytest.warns(UserWarning, match=r"NaN counts as not zero in 'weight' \(weight_norm makes 0/0 of") as caught:
        report = sparsity_report(layer)
    assert caught[0].filename == __file__
    assert {each.name: each.nonzeros for each in report.layers} == {"bias": 4, "weight": 16}


def test_negative_zero_is_zero_and_nan_is_not():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[-0.0, 0.0], [float("nan"), 1.0]]))
    assert sparsity_report(layer).nonzeros == 2


# module, input shape, multiply-adds by hand of the module's weight
LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6), 5 * 6 * 4),
    "linear on sequences": (nn.Linear(6, 4), (5, 3, 6), 5 * 3 * 6 * 4),
    "convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 10, 10), 2 * 8 * 3 * 9 * 25),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2, padding=1), (1, 4, 6, 6), 8 * 2 * 9 * 36),
    "depthwise": (nn.Conv1d(6, 6, 5, groups=6), (3, 6, 12), 3 * 6 * 5 * 8),
    "transposed": (nn.ConvTranspose2d(4, 3, 2, stride=2), (1, 4, 5, 5), 25 * 4 * 3 * 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds_are_those_counted_by_hand(name):
    layer, shape, expected = LAYERS[name]
    plant_zeros(layer, 2)
    report = sparsity_report(layer, torch.ones(shape))
    weight, bias = report.layers
    assert (weight.multiply_adds, weight.sparse_multiply_adds) == (expected, expected // 2)
    assert (bias.multiply_adds, report.multiply_adds) == (0, expected)


def test_products_of_activations_are_kept_apart_and_shared_weights_are_added_up():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.up, self.down = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
            self.down.weight = self.up.weight

        def forward(self, x):
            x, _ = self.attention(x, x, x, need_weights=False)
            return self.up(x) + self.down(x)

    report = sparsity_report(Tied(), torch.ones(1, 3, 4))
    by_name = {x.name: x.multiply_adds for x in report.layers}
    assert by_name["attention.in_proj_weight"] == 3 * 4 * 12
    assert by_name["attention.out_proj.weight"] == 3 * 4 * 4
    assert by_name["up.weight"] == 2 * 3 * 4 * 6
    assert report.activation_multiply_adds == 2 * (2 * 3 * 3 * 2)  # two products, two heads, 3 x 3 x 2 each


def test_counting_leaves_the_model_and_the_global_switches_as_they_were():
    model = digits_net()
    model[0].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    sparsity_report(model, torch.ones(1, 1, 8, 8))
    assert [m.training for m in model.children()] == [False] + [True] * (len(model) - 1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    with pytest.raises(RuntimeError):
        sparsity_report(model, torch.ones(1, 2, 8, 8))
    assert model[1].training


def test_several_inputs_are_given_as_a_tuple():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 5), nn.Linear(4, 5)

        def forward(self, x, y):
            return self.left(x) * self.right(y)

    report = sparsity_report(Product(), (torch.ones(2, 3), torch.ones(6, 2, 4)))
    assert report.multiply_adds == 2 * 3 * 5 + 6 * 2 * 4 * 5


def test_the_table_is_readable():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    plant_zeros(model, 2)
    assert str(sparsity_report(model)).splitlines() == [
        "layer             shape    parameters  nonzero   zeros",
        "----------------  -------  ----------  -------  ------",
        "0.weight          2x1x3x3          18        9  50.00%",
        "0.bias            2                 2        1  50.00%",
        "1.weight          2                 2        1  50.00%",
        "1.bias            2                 2        1  50.00%",
        "----------------  -------  ----------  -------  ------",
        "prunable weights                   18        9  50.00%",
        "all parameters                     24       12  50.00%",
    ]
    assert "multiply-adds" in str(sparsity_report(model, torch.ones(1, 1, 5, 5))).splitlines()[0]


def test_an_empty_model_has_no_zeros():
    assert sparsity_report(nn.ReLU()).sparsity == 0.0
    assert "all parameters" in str(sparsity_report(nn.ReLU()))


def test_names_that_moved_to_deploy_are_still_found():
    from directional_pruning import deploy, sparsity

    for name in ("FileSize", "compact", "export_onnx", "file_size", "load_sparse", "read_weights", "save_sparse"):
        assert getattr(sparsity, name) is getattr(deploy, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        sparsity.nothing  # noqa: B018
