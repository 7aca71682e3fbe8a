"""The recipes match section 4 of the paper; their variants, descriptions and checks."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.optim import SGD

from directional_pruning import GRDA
from directional_pruning.landscape import path_threshold
from directional_pruning.report.published import published
from directional_pruning.runs import RECIPES
from directional_pruning.runs.paper import _warm_cosine
from directional_pruning.training import constant_schedule, drop_schedule, paper_schedule

CIFAR = {"batch_size": 128, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0}
IMAGENET = CIFAR | {"batch_size": 256, "model": "torchvision:resnet50", "num_classes": 1000}
VGG_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WRN_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
# Section 4: what a recipe must be, its settings, its rate, its normalisation.
SECTION_4 = {
    "vgg16-cifar10": (
        CIFAR | {"epochs": 600, "model": "vgg16", "num_classes": 10},
        [(0.0005, mu) for mu in (0.4, 0.51, 0.6, 0.7)],
        paper_schedule,
        VGG_STATISTICS,
    ),
    "wrn28x10-cifar10": (
        CIFAR | {"epochs": 200, "model": "wrn28x10", "num_classes": 10},
        [(0.001, mu) for mu in (0.501, 0.55, 0.6, 0.65)],
        paper_schedule,
        WRN_STATISTICS,
    ),
    "wrn28x10-cifar100": (
        CIFAR | {"epochs": 200, "model": "wrn28x10", "num_classes": 100},
        [(0.001, mu) for mu in (0.501, 0.55, 0.6, 0.65)],
        paper_schedule,
        WRN_STATISTICS,
    ),
    "resnet50-imagenet": (
        IMAGENET | {"epochs": 150},
        [(0.005, mu) for mu in (0.501, 0.51, 0.55, 0.6, 0.65, 0.7)],
        drop_schedule,
        VGG_STATISTICS,
    ),
    "resnet50-imagenet-fixed": (
        IMAGENET | {"epochs": 147},
        [(0.005, 0.501), (0.005, 0.51), (0.005, 0.55), (0.01, 0.4)],
        constant_schedule,
        VGG_STATISTICS,
    ),
}


@pytest.mark.parametrize("name", SECTION_4)
def test_a_recipe_is_section_4(name):
    settings, pairs, schedule, statistics = SECTION_4[name]
    recipe = RECIPES[name]()
    resolved = recipe.hyperparameters()
    assert {key: resolved[key] for key in settings} == settings
    assert list(recipe.settings) == pairs
    assert (recipe.c, recipe.mu) in recipe.settings
    assert recipe.schedule is schedule
    assert (recipe.mean, recipe.std) == statistics
    assert recipe.skip == ()  # every parameter is pruned and counted
    paper = published(name)
    assert paper.epochs == recipe.epochs
    assert all(paper.setting(c, mu) for c, mu in pairs)
    with torch.device("meta"):
        network = recipe.network()
    assert sum(p.numel() for p in network.parameters()) == paper.parameters
    optimizer = recipe.optimizer(nn.Linear(2, 2), "grda")
    assert isinstance(optimizer, GRDA)
    assert type(recipe.optimizer(nn.Linear(2, 2), "sgd")) is SGD
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


@pytest.mark.parametrize("name", ["vgg16-cifar10", "wrn28x10-cifar10", "wrn28x10-cifar100"])
def test_rate_and_steps_of_a_recipe_end_at_the_published_thresholds(name):
    recipe, steps = RECIPES[name](), 391  # of an epoch of 50,000 images
    for row in filter(lambda row: row.threshold, published(name).settings):
        threshold = sum(
            row.c
            * (recipe.lr * recipe.schedule(epoch, recipe.epochs)) ** (0.5 + row.mu)
            * (((epoch + 1) * steps) ** row.mu - (epoch * steps) ** row.mu)
            for epoch in range(recipe.epochs)
        )
        assert threshold == pytest.approx(row.threshold, rel=0.006)


def test_the_rate_of_imagenet_drops_at_epoch_140():
    rates = [0.1 * drop_schedule(epoch, 150) for epoch in range(150)]
    assert rates == [0.1] * 140 + [pytest.approx(0.01)] * 10
    assert {constant_schedule(epoch, 147) for epoch in range(147)} == {1.0}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-modern")])
def test_a_modern_recipe_is_the_papers_but_for_what_it_names(name):
    recipe, base = RECIPES[name](), RECIPES[name.removesuffix("-modern")]()
    assert (recipe.momentum, recipe.label_smoothing, recipe.skip) == (0.9, 0.1, ("norm", "bias"))
    assert recipe.weight_decay > 0
    assert recipe.schedule is _warm_cosine
    assert (recipe.dataset, recipe.num_classes, recipe.mean) == (base.dataset, base.num_classes, base.mean)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    pruned, spared = recipe.optimizer(model, "grda").param_groups
    assert (pruned["momentum"], pruned["weight_decay"], pruned["c"]) == (0.9, recipe.weight_decay, recipe.c)
    assert (spared["c"], len(spared["params"])) == (0, 3)
    baseline = recipe.optimizer(model, "sgd").param_groups[0]
    assert (baseline["momentum"], baseline["weight_decay"], baseline["lr"]) == (0.9, recipe.weight_decay, recipe.lr)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-modern")])
def test_the_threshold_of_a_modern_recipe_ends_where_the_papers_does(name):
    ends = []
    for recipe in (RECIPES[name](), RECIPES[name.removesuffix("-modern")]()):
        rates = [recipe.lr * recipe.schedule(epoch, recipe.epochs) for epoch in range(recipe.epochs) for _ in range(20)]
        ends.append(path_threshold(rates, recipe.c, recipe.mu))
    assert ends[0] == pytest.approx(ends[1], rel=0.05)  # c has two digits


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is(name):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert len(recipe.summary) > 20
    description = recipe.describe()
    assert all(description.values())
    assert recipe.optimizer_name in description["optimizer"]
    for c, mu in recipe.settings:
        assert f"({c}, {mu})" in description["settings of the paper (c, mu)"]
    # All that a file of the run can hold.
    assert {type(value) for value in recipe.hyperparameters().values()} <= {int, float, str, bool, type(None)}
    assert replace(recipe, **recipe.hyperparameters()) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"precision": "float8"}, "invalid precision: float8"),
        ({"parallel": "pipeline"}, "invalid parallel: pipeline"),
        ({"label_smoothing": 1.0}, "invalid label_smoothing: 1.0"),
        ({"accumulate": 0}, "invalid accumulate: 0"),
        ({"samples": -1}, "invalid samples: -1"),
        ({"workers": -1}, "invalid workers: -1"),
        ({"num_classes": 0}, "invalid num_classes: 0"),
        ({"momentum": -0.5}, "momentum: -0.5"),
        ({"momentum": 1.0}, r"momentum: 1.0 \(must be in \[0, 1\)\)"),
        ({"weight_decay": -0.5}, "weight_decay: -0.5"),
    ],
)
def test_a_setting_out_of_range_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["vgg16-cifar10"](), **override)


def test_momentum_is_not_for_an_optimizer_that_has_its_own():
    with pytest.raises(ValueError, match=r"invalid momentum: 0.9 \(chars trains with AdamW\)"):
        replace(RECIPES["chars"](), momentum=0.9)


@pytest.mark.parametrize("setting", [{"data": "somewhere"}, {"samples": 10}, {"paper_protocol": True}])
@pytest.mark.parametrize("name", ["digits", "chars"])
def test_data_that_come_with_a_package_are_what_they_are(name, setting):
    (key,) = setting
    with pytest.raises(ValueError, match=f"invalid {key}: .* are always the same"):
        replace(RECIPES[name](), **setting).splits(torch.device("cpu"))


def test_labels_beyond_the_networks_outputs_are_refused():
    with pytest.raises(ValueError, match=r"invalid num_classes: 7 \(the data have 10\)"):
        replace(RECIPES["digits"](), num_classes=7).splits(torch.device("cpu"))


def test_the_precision_of_a_device():
    recipe = RECIPES["vgg16-cifar10"]()
    assert recipe.autocast(torch.device("cpu")) is None
    assert recipe.autocast(torch.device("cuda")) is torch.bfloat16
    assert replace(recipe, precision="bfloat16").autocast(torch.device("cpu")) is torch.bfloat16
    assert replace(recipe, precision="float32").autocast(torch.device("cuda")) is None


def test_every_plain_setting_of_a_recipe_is_written_to_the_run():
    recipe = RECIPES["digits"]()
    fixed = {"name", "summary", "power", "channels_last", "threads"}  # of a recipe's author alone
    plain = {
        field.name
        for field in fields(recipe)
        if type(getattr(recipe, field.name)) in (str, int, float, bool, type(None))
    }
    assert plain - fixed == recipe.hyperparameters().keys()
