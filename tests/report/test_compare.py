"""Runs beside the paper: its numbers, our means, the flags, and a page that stands alone."""

import base64
import json
import re
import sys
from html import escape
from xml.etree import ElementTree

import numpy as np
import pytest

from directional_pruning import cli
from directional_pruning.files import CorruptFileError
from directional_pruning.report import comparison_rows, write_comparison
from directional_pruning.report.comparison_page import training_panels
from directional_pruning.report.groups import gather
from directional_pruning.report.plots.style import AT_NIGHT, COLOURS
from directional_pruning.report.plots.tradeoff import accuracy_against_zeros, layer_by_layer
from directional_pruning.report.plots.training import training_figure
from directional_pruning.report.published import published

pytestmark = pytest.mark.slow

# The table of the paper: recipe, c, mu, zeros and test accuracy in percent, as printed; the baseline's accuracy.
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


@pytest.mark.parametrize(("recipe", "c", "mu", "zeros", "accuracy", "dense"), TABLE)
def test_the_papers_table_comes_out_as_printed(recipe, c, mu, zeros, accuracy, dense):
    paper = published(recipe)
    row = paper.setting(c, mu)
    assert (printed(row.sparsity, zeros), printed(row.test_accuracy, accuracy)) == (zeros, accuracy)
    assert printed(paper.dense and paper.dense.test_accuracy, dense or ".00") == dense
    assert row.seeds == (1 if "resnet50" in recipe else 9 if mu == 0.7 else 10)


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
        for row in (published(name).dense, *published(name).settings):
            if row.curves:
                assert row.curves["test_accuracy"].y[-1] == pytest.approx(row.test_accuracy, abs=2e-5)
                assert row.c == 0 or row.curves["sparsity"].y[-1] == pytest.approx(row.sparsity, abs=2e-5)
    accuracy = published("vgg16-cifar10").setting(0.0005, 0.7).curves["test_accuracy"].y
    assert (np.diff(accuracy[5:]) > -0.001).all()  # with the diverged seed in the mean it would fall by 8 points
    assert "diverged" in published("vgg16-cifar10").setting(0.0005, 0.7).note


def test_figures_of_the_paper_are_there_with_their_sources():
    vgg, imagenet = published("vgg16-cifar10"), published("resnet50-imagenet-fixed")
    ends = [row.curves["norm_ratio"].y[-1] for row in (vgg.setting(0.0005, 0.51), vgg.dense)]
    assert ends == pytest.approx([6.19e-4, 3.53e-4], rel=1e-3)
    assert dict(zip(*imagenet.frontier["magnitude, extended"]))[0.9] == 0.7516
    assert len(imagenet.layers.names) == 54
    assert imagenet.layers.methods["gRDA, c 0.005, μ 0.55"][0] == 0.607
    assert len(imagenet.others) == 11
    assert "decoded from the vector figure" in imagenet.sources["curves"]


def test_a_modern_recipe_is_compared_with_its_base_and_an_unknown_one_with_nothing():
    assert published("resnet50-imagenet-modern").modern
    assert published("resnet50-imagenet-modern").settings == published("resnet50-imagenet").settings
    assert published("digits") is published("vgg16-cifar10").setting(0.0005, 0.61) is None
    assert published("vgg16-cifar10").setting(0.0005 + 1e-12, 0.51 - 1e-12) is not None


CIFAR = {
    "recipe": "vgg16-cifar10",
    "epochs": 600,
    "c": 0.0005,
    "mu": 0.6,
    "lr": 0.1,
    "batch_size": 128,
    "samples": 0,
    "paper_protocol": True,
}
LAYERS = [
    {"name": "features.0.weight", "shape": [64, 3, 3, 3], "total": 1728, "nonzeros": 432, "prunable": True},
    {"name": "features.0.bias", "shape": [64], "total": 64, "nonzeros": 64, "prunable": True},
    {"name": "classifier.weight", "shape": [10, 512], "total": 5120, "nonzeros": 2560, "prunable": True},
]


def make_run(folder, zeros=0.9, accuracy=0.908, twin=0.909, seed=1, upto=None, finished=True, layers=LAYERS, **changes):
    """A run whose curves are straight lines to where its summary says it ends."""
    folder.mkdir(parents=True)
    config = {**CIFAR, "seed": seed, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "metrics.jsonl", "w") as file:
        for network, end, empty in (("sgd", twin, 0.0), ("grda", accuracy, zeros)):
            for epoch in range(1, (upto or config["epochs"]) + 1):
                share = epoch / config["epochs"]
                line = {"network": network, "epoch": epoch, "train_loss": 1 - 0.9 * share, "train_accuracy": share}
                line |= {"validation_accuracy": end * share, "sparsity_all": empty * share, "norm_ratio": 1e-3 * share}
                file.write(json.dumps(line) + "\n")
    if finished:
        grda = {"test_accuracy": accuracy, "sparsity_all": zeros, "sparsity_prunable": zeros + 0.01}
        summary = {"sgd": {"test_accuracy": twin}, "grda": grda, "seconds": 100.0, "layers": layers}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def lines_of(figure, *, dashed):
    """The points of the lines of ours, or of the paper's, by colour."""
    kind = [line for line in figure.axes[0].lines if line.get_linestyle() == ("--" if dashed else "-")]
    return {line.get_color(): line.get_xydata() for line in kind}


def test_rows_are_means_over_seeds_beside_the_papers(tmp_path):
    for seed, accuracy in ((1, 0.90), (2, 0.91), (3, 0.92)):
        make_run(tmp_path / f"sweep/seed{seed}", seed=seed, accuracy=accuracy, twin=0.9)
    make_run(tmp_path / "other", mu=0.51, zeros=0.6)
    (tmp_path / "sweep/sweep.json").write_text("{}")
    other, row = comparison_rows([tmp_path / "sweep", tmp_path / "other", tmp_path / "sweep/seed1"])
    assert (row.recipe, row.label, row.seeds, row.runs, row.flags) == ("vgg16-cifar10", "μ 0.6", 3, 3, ())
    assert row.test_accuracy == pytest.approx((0.91, 0.01, 3))
    assert row.sparsity_prunable == pytest.approx((0.91, 0, 3))
    assert row.published["test_accuracy"].mean == 0.90856
    assert row.difference("test_accuracy") == pytest.approx(0.91 - 0.90856)
    assert row.difference("dense_accuracy") == pytest.approx(0.9 - 0.90818)
    assert (other.mu, other.sparsity_all) == (0.51, (0.6, None, 1))
    assert comparison_rows([tmp_path / "other", tmp_path / "sweep"]) == [other, row]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"epochs": 20}, "shortened: 20 epochs, the paper's runs have 600"),
        ({"samples": 5000}, "trained on a subset: 5,000 images"),
        ({"paper_protocol": False}, "part of the training images held out for validation; the paper trains on all"),
        ({"lr": 0.05}, "lr 0.05, the paper's is 0.1"),
        ({"momentum": 0.9}, "momentum 0.9, the paper's is 0"),
        ({"training_images": 49_999, "test_images": 10_000}, "other data: 49,999 images to train and validate, 10,000"),
        ({"training_images": 50_000, "test_images": 26_032}, "other data: 50,000 images to train and validate, 26,032"),
        ({"mu": 0.66}, "not a setting of the paper"),
        ({"mu": 0.7}, "the paper: nine seeds: the tenth diverged and is left out"),
        ({"finished": False, "upto": 7}, "1 of 1 runs not finished (gRDA at epoch 7 of 600)"),
        ({"recipe": "vgg16-cifar10-modern"}, "beyond the paper: beside the rows of vgg16-cifar10"),
    ],
)
def test_what_departs_from_the_paper_is_said_in_the_table(tmp_path, changes, flag):
    make_run(tmp_path / "run", **changes)
    (row,) = comparison_rows([tmp_path / "run"])
    assert [said for said in row.flags if said.startswith(flag)]
    assert len(row.flags) == 1
    page = write_comparison([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert escape(row.flags[0]) in page


def test_the_papers_own_data_are_not_said_to_be_others(tmp_path):
    images = {"training_images": 50_000, "test_images": 10_000}
    make_run(tmp_path / "whole", **images)
    make_run(tmp_path / "part", samples=5000, **images | {"training_images": 10_000})
    assert [row.flags for row in comparison_rows([tmp_path])] == [(), ("trained on a subset: 5,000 images",)]


def test_runs_on_different_data_are_not_averaged(tmp_path):
    make_run(tmp_path / "a", training_images=50_000, test_images=10_000)
    make_run(tmp_path / "b", training_images=73_257, test_images=10_000, seed=2)
    make_run(tmp_path / "c", test_images=10_000, seed=3)
    assert [row.label for row in comparison_rows([tmp_path])] == [
        f"μ 0.6, {count} training images" for count in ("unknown", "50000", "73257")
    ]


def test_runs_of_different_protocols_are_not_averaged(tmp_path):
    make_run(tmp_path / "a", epochs=20)
    make_run(tmp_path / "b")
    make_run(tmp_path / "c", samples=100)
    rows = comparison_rows([tmp_path])
    assert sorted(row.label for row in rows) == [
        "μ 0.6, 20 epochs, all samples", "μ 0.6, 600 epochs, 100 samples", "μ 0.6, 600 epochs, all samples",
    ]  # fmt: skip
    assert [row.seeds for row in rows] == [1, 1, 1]


def test_a_seed_run_twice_is_said_and_a_twin_trained_once_counts_for_all_settings(tmp_path):
    make_run(tmp_path / "a", twin=0.95)
    make_run(tmp_path / "b")
    lone = make_run(tmp_path / "c", mu=0.7)
    summary = json.loads((lone / "summary.json").read_text())
    (lone / "summary.json").write_text(json.dumps({key: summary[key] for key in summary if key != "sgd"}))
    lines = (lone / "metrics.jsonl").read_text().splitlines(keepends=True)
    (lone / "metrics.jsonl").write_text("".join(line for line in lines if '"sgd"' not in line))
    first, second = comparison_rows([tmp_path])
    assert first.flags == ("more than one run of seed 1",)
    assert second.dense_accuracy == (0.95, None, 1)


def test_runs_are_found_at_any_depth_and_each_once(tmp_path, capsys, monkeypatch):
    first = make_run(tmp_path / "runs/sweeps/vgg/seed1")
    other = make_run(tmp_path / "runs/sweeps/vgg/seed2", seed=2)
    (first / "sgd").mkdir()
    (other / "sgd").symlink_to("../seed1/sgd", target_is_directory=True)
    make_run(first / "tried/from-here", seed=3)  # what lies in a run belongs to it
    make_run(tmp_path / "runs/digits", recipe="digits")
    (tmp_path / "runs/loop").symlink_to(tmp_path / "runs", target_is_directory=True)
    (tmp_path / "runs/best").symlink_to(make_run(tmp_path / "elsewhere", mu=0.7), target_is_directory=True)
    (tmp_path / "runs/curve").mkdir()
    (tmp_path / "runs/curve/config.json").write_text('{"between": ["a", "b"]}')
    rows = comparison_rows([tmp_path / "runs", first])
    assert [(row.recipe, row.mu, row.seeds) for row in rows] == [
        ("digits", 0.6, 1), ("vgg16-cifar10", 0.6, 2), ("vgg16-cifar10", 0.7, 1),
    ]  # fmt: skip
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["dirprune", "compare", str(tmp_path / "runs"), "--out", str(page)])
    with pytest.raises(SystemExit):
        cli.main()
    tables = [
        line.strip() for line in capsys.readouterr().out.splitlines() if line.strip() in ("digits", CIFAR["recipe"])
    ]
    assert tables == ["digits", "vgg16-cifar10"]
    assert re.findall(r"<h2>([^<]+)</h2>", page.read_text(encoding="utf-8")) == tables
    with pytest.raises(FileNotFoundError, match=r"no run in the folders: their config\.json are"):
        comparison_rows([tmp_path / "runs/curve"])


def test_a_run_under_way_shows_its_zeros_so_far(tmp_path):
    make_run(tmp_path / "run", zeros=0.6, upto=300, finished=False)
    (row,) = comparison_rows([tmp_path / "run"])
    assert (row.seeds, row.runs, row.test_accuracy) == (0, 1, None)
    assert row.sparsity_all.mean == pytest.approx(0.3)
    assert "0 of 1" in write_comparison([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")


def test_pictures_hold_our_means_with_their_range_and_the_papers_points(tmp_path):
    make_run(tmp_path / "a", accuracy=0.90)
    make_run(tmp_path / "b", accuracy=0.92, seed=2)
    groups = gather([tmp_path])
    figure = training_figure("accuracy", groups)
    ours, theirs = (lines_of(figure, dashed=dashed) for dashed in (False, True))
    assert ours[COLOURS["grda"]][-1].tolist() == pytest.approx([600, 91])
    assert ours[COLOURS["sgd"]][299].tolist() == pytest.approx([300, 45.45])
    assert theirs[COLOURS["grda"]][-1].tolist() == pytest.approx([600, 90.856])
    assert theirs[COLOURS["sgd"]][-1].tolist() == pytest.approx([600, 90.818])
    band = figure.axes[0].collections[-1].get_paths()[0].get_extents()
    assert band.ymax == pytest.approx(92)
    assert "test accuracy, %" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_xlabel() == "epoch"
    norms = training_figure("norm_ratio", groups)
    assert lines_of(norms, dashed=True)[COLOURS["sgd"]][-1].tolist() == pytest.approx([599, 0.35286])
    assert lines_of(norms, dashed=False)[COLOURS["grda"]][-1].tolist() == pytest.approx([600, 1])
    assert COLOURS["grda"] not in lines_of(norms, dashed=True)  # the paper shows mu 0.51 only
    zeros = lines_of(training_figure("sparsity", groups), dashed=True)[COLOURS["grda"]]
    assert zeros[-1].tolist() == pytest.approx([600, 90.476])
    assert training_figure("loss", groups).axes[0].get_yscale() == "log"


def test_shortened_and_held_out_runs_are_drawn_over_the_share_of_training_and_named(tmp_path):
    make_run(tmp_path / "run", epochs=20, paper_protocol=False)
    figure = training_figure("accuracy", gather([tmp_path]))
    assert figure.axes[0].get_xlabel() == "share of training, % (ours 20 epochs, the paper 600)"
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"validation accuracy, %", "dashed: the paper, test"} <= set(texts)
    for dashed in (False, True):
        assert {line[-1, 0] for line in lines_of(figure, dashed=dashed).values()} == {100}
    assert lines_of(figure, dashed=True)[COLOURS["sgd"]][0, 0] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("others", "end"), [((), 2.2), ((20,), 5.5)])
def test_the_axis_ends_soon_after_what_ours_have_reached_and_the_papers_curves_with_it(tmp_path, others, end):
    make_run(tmp_path / "run", upto=2, finished=False)
    for epochs in others:  # beside trainings of another length the axis is the share of training
        make_run(tmp_path / "other", epochs=epochs, upto=1, finished=False)
    for name in ("accuracy", "loss", "sparsity", "norm_ratio"):
        figure = training_figure(name, gather([tmp_path]))
        assert figure.axes[0].get_xlim() == pytest.approx((0, end))
        for theirs in lines_of(figure, dashed=True).values():
            assert (theirs[:-1, 0] < end).all()
            assert theirs[-1, 0] >= end  # the line leads out of the picture
    lowest, highest = training_figure("accuracy", gather([tmp_path / "run"])).axes[0].get_ylim()
    assert lowest < 0.3
    assert highest < 60


def test_accuracy_against_zeros_has_our_points_the_papers_and_the_other_methods(tmp_path):
    make_run(tmp_path / "run", recipe="resnet50-imagenet", mu=0.55, c=0.005, zeros=0.9, accuracy=0.74, epochs=150)
    axes = accuracy_against_zeros(gather([tmp_path])).axes[0]
    points = {tuple(np.round(xy, 6)) for line in axes.lines for xy in line.get_xydata()}
    assert (1.0, 74.0) in points  # one tenth is left
    assert (round(-np.log10(1 - 0.915893), 6), 73.24) in points
    assert (1.0, 75.16) in points
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[:3] == ["ours", "the paper", "the paper, other schedule"]
    assert {"magnitude", "magnitude, extended", "variational dropout", "random", "dense baseline, ours"} <= set(words)


def test_the_axis_of_zeros_has_round_ticks_however_short_it_is(tmp_path):
    for mu, zeros in ((0.6, 0.9271), (0.7, 0.9339)):
        make_run(tmp_path / f"{mu}", recipe="digits", mu=mu, zeros=zeros)
    axes = accuracy_against_zeros(gather([tmp_path])).axes[0]
    ticks = [float(label.get_text()) for label in axes.get_xticklabels()]
    assert len(ticks) >= 3
    assert all(92.7 <= tick <= 93.4 for tick in ticks)
    assert axes.get_xticks().tolist() == pytest.approx([2 - np.log10(100 - tick) for tick in ticks])


def test_layers_of_resnet50_stand_at_their_places_beside_other_methods_and_biases_are_left_out(tmp_path):
    names = published("resnet50-imagenet").layers.names
    layers = [{"name": name, "shape": [2, 2], "total": 100, "nonzeros": i} for i, name in reversed([*enumerate(names)])]
    make_run(tmp_path / "rn", recipe="resnet50-imagenet", mu=0.55, c=0.005, epochs=150, layers=layers)
    axes = layer_by_layer(gather([tmp_path / "rn"])).axes[0]
    assert len(axes.lines) == 7
    assert axes.lines[-1].get_ydata().tolist() == pytest.approx([100 - i for i in range(54)])
    make_run(tmp_path / "vgg")
    (line,) = layer_by_layer(gather([tmp_path / "vgg"])).axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx([75, 50])


def test_training_accuracy_is_drawn_where_the_paper_shows_it_and_no_loss(tmp_path):
    make_run(tmp_path / "rn", recipe="resnet50-imagenet-fixed", mu=0.55, c=0.005, epochs=147, batch_size=256)
    figure = training_figure("training_accuracy", gather([tmp_path / "rn"]))
    assert lines_of(figure, dashed=True)[COLOURS["grda"]][-1].tolist() == pytest.approx([146, 68.75])
    assert "training_accuracy" in training_panels(published("resnet50-imagenet-fixed"))
    assert "training_accuracy" not in training_panels(published("vgg16-cifar10"))


def test_recipes_the_paper_does_not_have_are_compared_with_each_other(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"s{seed}", recipe="digits", seed=seed, paper_protocol=False)
        make_run(tmp_path / f"t{seed}", recipe="digits", seed=seed, c=0.01, paper_protocol=False)
    rows = comparison_rows([tmp_path])
    assert [(row.label, row.seeds, row.published, row.flags) for row in rows] == [
        ("c 0.0005, μ 0.6", 2, {}, ()), ("c 0.01, μ 0.6", 2, {}, ()),
    ]  # fmt: skip
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 runs of 1 recipe<" in page
    assert "difference" not in page
    figure = training_figure("accuracy", gather([tmp_path]))
    assert not lines_of(figure, dashed=True)
    assert "validation accuracy, %" in [text.get_text() for text in figure.axes[0].texts]


def test_the_page_stands_alone_and_the_same_runs_give_the_same_bytes(tmp_path):
    folders = [make_run(tmp_path / name, mu=mu) for name, mu in (("a", 0.4), ("b", 0.51), ("c", 0.6), ("d", 0.7))]
    folders.append(make_run(tmp_path / "rn", recipe="resnet50-imagenet", mu=0.55, c=0.005, epochs=20))
    page = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    again = write_comparison(folders[::-1], tmp_path / "again.html").read_text(encoding="utf-8")
    assert page == again
    svgs = [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert len(svgs) == 6 + 6
    for text in (page, *svgs):
        without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        assert not re.search(r"https?:|//\w+\.|@import|url\((?!#)|<script|\son\w+=", without_namespaces)
    for svg in svgs:
        ElementTree.fromstring(svg)
        drawn = svg.split("</style>", 1)[1]
        assert set(re.findall(r"(?:fill|stroke): (#\w{6})", drawn)) <= set(AT_NIGHT)
    assert all(len(alt) > 40 for alt in re.findall(r'<img alt="([^"]*)"', page))


def test_what_the_files_say_is_text_not_markup(tmp_path):
    make_run(tmp_path / "a", recipe="<script>alert(1)</script>", model="<b>", seed="<i>")
    make_run(tmp_path / "b", recipe="<script>alert(1)</script>", model="[red]", seed="<i>")
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", '{"mu": "high"}', "mu: not a number: 'high'"),
        ("config.json", "{", "not JSON"),
        ("summary.json", '{"grda": {"sparsity_all": "x"}}', "sparsity_all: not a number"),
        ("metrics.jsonl", '{"network": "sgd", "epoch": 1, "norm_ratio": "x"}\n', "norm_ratio: not a number"),
    ],
)
def test_a_broken_run_is_one_line_that_names_the_file(tmp_path, name, content, said):
    path = make_run(tmp_path / "sweep" / "run") / name
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=re.escape(str(path)) + ".*" + re.escape(said)) as caught:
        write_comparison([tmp_path / "sweep"], tmp_path / "page.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in the folder .*" + re.escape(str(tmp_path))):
        comparison_rows([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"no such run folder: .*missing"):
        comparison_rows([tmp_path / "missing"])


def test_runs_that_hold_nothing_yet_have_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps({**CIFAR, "seed": 1}))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text("{}")
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 of 1 runs not finished" in page
    assert "<img" not in page


def test_numbers_that_are_not_finite_are_said_to_be_so(tmp_path):
    folder = make_run(tmp_path / "run")
    grda = {"test_accuracy": None, "sparsity_all": 0.9}
    (folder / "summary.json").write_text(json.dumps({"grda": grda, "sgd": {"test_accuracy": None}}))
    make_run(tmp_path / "other", seed=2)
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "not finite" in page
    assert ">nan" not in page


def test_the_command_prints_a_table_and_the_page(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "sweep" / "a", epochs=20)
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["dirprune", "compare", str(tmp_path / "sweep"), "--out", str(page)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert page.is_file()
    for text in ("vgg16-cifar10", "μ 0.6", "90.00", "paper 90.48", "−0.48 points", "shortened: 20 epochs", str(page)):
        assert text in said
    monkeypatch.setattr(sys, "argv", ["dirprune", "compare", str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err) == (2, "", f"dirprune: no such run folder: {tmp_path / 'gone'}\n")


def test_what_is_true_of_all_settings_is_said_once_above_the_table(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "a", epochs=20)
    make_run(tmp_path / "b", epochs=20, mu=0.7)
    page = write_comparison([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")
    shown = page.split("<body>")[1].split("<img")[0]
    assert shown.count("hortened: 20 epochs") == 1
    assert shown.index("hortened: 20 epochs") < shown.index("<table") < shown.index("nine seeds")
    monkeypatch.setattr(sys, "argv", ["dirprune", "compare", str(tmp_path), "--out", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out.splitlines()
    assert "each: shortened: 20 epochs, the paper's runs have 600" in said
    assert [line for line in said if line.startswith("μ 0.7: the paper: nine seeds")]
