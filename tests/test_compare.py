"""Runs beside the paper: its numbers, our means, the flags, and a page that stands alone."""

import numpy as np
import pytest

from directional_pruning.report.published import published, published_row

# The table of the paper: recipe, c, mu, zeros and test accuracy in percent, as printed; and the dense twin's accuracy.
TABLE = [
    ("vgg16-cifar10", 0.0005, 0.4, "24.4", "90.87", "90.82"),
    ("vgg16-cifar10", 0.0005, 0.51, "61.4", "91.02", "90.82"),
    ("vgg16-cifar10", 0.0005, 0.6, "90.5", "90.86", "90.82"),
    ("vgg16-cifar10", 0.0005, 0.7, "97.2", "90.64", "90.82"),
    ("wrn28x10-cifar10", 0.001, 0.501, "90.17", "94.46", "94.17"),
    ("wrn28x10-cifar10", 0.001, 0.55, "94.74", "94.43", "94.17"),
    ("wrn28x10-cifar10", 0.001, 0.6, "97.07", "94.50", "94.17"),
    ("wrn28x10-cifar10", 0.001, 0.65, "98.29", "94.53", "94.17"),
    ("wrn28x10-cifar100", 0.001, 0.501, "82.69", "76.92", "76.53"),
    ("wrn28x10-cifar100", 0.001, 0.55, "90.20", "77.00", "76.53"),
    ("wrn28x10-cifar100", 0.001, 0.6, "94.20", "77.00", "76.53"),
    ("wrn28x10-cifar100", 0.001, 0.65, "96.30", "76.85", "76.53"),
    ("resnet50-imagenet", 0.005, 0.501, "86.09", "73.13", None),
    ("resnet50-imagenet", 0.005, 0.51, "87.28", "73.14", None),
    ("resnet50-imagenet", 0.005, 0.55, "91.59", "73.24", None),
    ("resnet50-imagenet", 0.005, 0.6, "94.98", "72.16", None),
    ("resnet50-imagenet", 0.005, 0.65, "97.10", "70.04", None),
    ("resnet50-imagenet", 0.005, 0.7, "98.17", "65.51", None),
    ("resnet50-imagenet-fixed", 0.005, 0.501, "86.03", "70.60", "68.71"),
    ("resnet50-imagenet-fixed", 0.005, 0.51, "87.38", "70.35", "68.71"),
    ("resnet50-imagenet-fixed", 0.005, 0.55, "91.54", "69.76", "68.71"),
    ("resnet50-imagenet-fixed", 0.01, 0.4, "79.6", "70.59", "68.71"),
]


def printed(fraction, like):
    return None if fraction is None else f"{100 * fraction:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize(("recipe", "c", "mu", "zeros", "accuracy", "twin"), TABLE)
def test_the_papers_table_comes_out_as_printed(recipe, c, mu, zeros, accuracy, twin):
    row = published_row(recipe, c, mu)
    assert (printed(row["sparsity"], zeros), printed(row["test_accuracy"], accuracy)) == (zeros, accuracy)
    assert printed(row["twin_accuracy"], twin or ".00") == twin
    assert row["seeds"] == (1 if "resnet50" in recipe else 9 if mu == 0.7 else 10)


def test_thresholds_sizes_and_lengths_are_the_papers():
    thresholds = {
        name: [row.threshold for row in published(name).settings] for name in ("vgg16-cifar10", "wrn28x10-cifar100")
    }
    assert thresholds == {
        "vgg16-cifar10": [0.0077, 0.0223, 0.053, 0.138],
        "wrn28x10-cifar100": [0.0235, 0.0357, 0.0547, 0.0837],
    }
    sizes = {name: (published(name).parameters, published(name).epochs) for name in {row[0] for row in TABLE}}
    assert sizes["vgg16-cifar10"] == (15_245_130, 600)
    assert sizes["wrn28x10-cifar10"] == (36_489_290, 200)
    assert sizes["wrn28x10-cifar100"] == (36_546_980, 200)
    assert {sizes[name] for name in sizes if "imagenet" in name} == {(25_557_032, 150), (25_557_032, 147)}


def test_published_curves_end_at_the_published_figures_and_carry_no_diverged_seed():
    for name in ("vgg16-cifar10", "wrn28x10-cifar10", "wrn28x10-cifar100"):
        for row in (published(name).twin, *published(name).settings):
            if row.curves:
                assert row.curves["test_accuracy"].y[-1] == pytest.approx(row.test_accuracy, abs=2e-5)
                assert row.c == 0 or row.curves["sparsity"].y[-1] == pytest.approx(row.sparsity, abs=2e-5)
    accuracy = published("vgg16-cifar10").setting(0.0005, 0.7).curves["test_accuracy"].y
    assert (np.diff(accuracy[5:]) > -0.001).all()  # with the diverged seed in the mean it would fall by 8 points
    assert "diverged" in published("vgg16-cifar10").setting(0.0005, 0.7).note


def test_figures_of_the_paper_are_there_with_their_sources():
    vgg, imagenet = published("vgg16-cifar10"), published("resnet50-imagenet-fixed")
    ends = [row.curves["norm_ratio"].y[-1] for row in (vgg.setting(0.0005, 0.51), vgg.twin)]
    assert ends == pytest.approx([6.19e-4, 3.53e-4], rel=1e-3)
    assert dict(zip(*imagenet.frontier["magnitude, extended"]))[0.9] == 0.7516
    assert len(imagenet.layers.names) == 54
    assert imagenet.layers.methods["gRDA, c 0.005, μ 0.55"][0] == 0.607
    assert len(imagenet.others) == 11
    assert "decoded from the vector figure" in imagenet.sources["curves"]


def test_a_modern_recipe_is_compared_with_its_base_and_an_unknown_one_with_nothing():
    assert published("resnet50-imagenet-modern").beyond
    assert published("resnet50-imagenet-modern").settings == published("resnet50-imagenet").settings
    assert published_row("vgg16-cifar10-modern", 0.0005, 0.51) == published_row("vgg16-cifar10", 0.0005, 0.51)
    assert published_row("digits", 0.01, 0.7) is published_row("vgg16-cifar10", 0.0005, 0.61) is None
    assert published("vgg16-cifar10").setting(0.0005 + 1e-12, 0.51 - 1e-12) is not None
