"""The page of a run: what it shows, what it refuses, and that it stands alone."""

import base64
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from directional_pruning.files import CorruptFileError
from directional_pruning.report import write_report
from directional_pruning.report.groups import single_group
from directional_pruning.report.plots.style import AT_NIGHT, to_svg
from directional_pruning.report.plots.training import schedule_figure, training_figure
from directional_pruning.report.plots.weights import histogram_figure, layers_figure
from directional_pruning.run_folder import Run, read_run

CONFIG = {
    "recipe": "digits",
    "command": "dirprune train digits --seed 0",
    "seed": 0,
    "epochs": 4,
    "lr": 0.1,
    "c": 0.02,
    "mu": 0.7,
    "skip": ["norm", "bias"],
    "versions": {"directional-pruning": "0.1.0", "torch": "2.13.0+cpu"},
}
SUMMARY = {
    "recipe": "digits",
    "sgd": {"test_accuracy": 0.9953, "sparsity_all": 0.0, "sparsity_prunable": 0.0, "bytes": 379_000, "seconds": 15.1},
    "grda": {
        "test_accuracy": 0.9944,
        "test_loss": 0.0231,
        "sparsity_all": 0.9261,
        "sparsity_prunable": 0.9312,
        "bytes": 379_000,
        "sparse_bytes": 17_040,
        "seconds": 16.2,
    },
    "seconds": 33.1,
    "parameters": 94_000,
    "layers": [
        {"name": "conv1.weight", "shape": [32, 1, 3, 3], "total": 288, "nonzeros": 120, "prunable": True},
        {"name": "norm1.weight", "shape": [32], "total": 32, "nonzeros": 32, "prunable": False},
        {"name": "fc.weight", "shape": [10, 128], "total": 1280, "nonzeros": 500, "prunable": True},
    ],
    "histogram": {
        "edges": [-0.2, -0.1, 0.0, 0.1, 0.2],
        "sgd": [10, 400, 390, 12],
        "grda": [30, 5, 0, 31],
        "grda_zeros": 734,
        "sgd_zeros": 0,
    },
}
FIGURES = {"loss", "accuracy", "sparsity", "schedule", "layers", "histogram"}


def epochs(network, count=4, **changes):
    for epoch in range(1, count + 1):
        zeros = 0.2 * epoch if network == "grda" else 0.0
        yield {
            "network": network,
            "epoch": epoch,
            "epochs": 4,
            "step": 20 * epoch,
            "lr": 0.1 / epoch,
            "train_loss": 1.0 / epoch**2,
            "train_accuracy": 1 - 0.3 / epoch,
            "validation_loss": 1.1 / epoch,
            "validation_accuracy": 1 - 0.4 / epoch,
            "sparsity_all": zeros,
            "sparsity_prunable": min(1.01 * zeros, 1.0),
            "threshold": 0.01 * epoch if network == "grda" else 0.0,
            "seconds": 0.2,
            **changes,
        }


def make_run(folder, metrics=None, summary=SUMMARY, config=CONFIG):
    folder.mkdir(exist_ok=True)
    lines = [*epochs("sgd"), *epochs("grda")] if metrics is None else metrics
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def figure_of(name, lines, recipe="", **config):
    """A figure of the run with these records."""
    group = single_group(Run(recipe, config, list(lines), {}, {}))
    return schedule_figure(group) if name == "schedule" else training_figure(name, [group], single=True)


def read_page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def visible(page):
    """The page as a reader sees it: tags, styles and pictures gone, spaces plain."""
    body = re.sub(r"<[^>]*>", " ", page.split("<body>")[1])
    return re.sub(r"\s+", " ", body)


def pictures(page):
    return [base64.b64decode(data).decode() for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]


class Strict(HTMLParser):
    """Notes every tag, and that each is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.seen


def test_a_finished_run_has_one_sentence_and_one_table(tmp_path):
    page = read_page(make_run(tmp_path))
    text = visible(page)
    sentence = "92.6 % of all parameters are exactly zero; test accuracy 99.4 % against 99.5 % for the dense baseline"
    assert sentence in text
    for shown in ("99.44 %", "99.53 %", "92.6 %", "93.1 %", "17.0 kB", "379 kB", "15.1 s", "94,000", "22 times less"):
        assert shown in text
    assert "Training both networks took 33.1 s" in text
    assert "dirprune train digits --seed 0" in text
    assert "2.13.0+cpu" in text
    assert "norm, bias" in text
    assert "734 exact zeros" in text


def test_every_picture_is_in_the_page_and_in_the_folder_as_well_formed_svg(tmp_path):
    page = read_page(make_run(tmp_path))
    files = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "figures").iterdir()}
    assert set(files) == FIGURES
    assert sorted(pictures(page)) == sorted(files.values())
    for svg in files.values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme:dark" in svg
    for tag, attributes in parsed(page):
        assert tag != "img" or len(attributes["alt"]) > 40


def test_every_colour_of_a_picture_has_a_counterpart_at_night(tmp_path):
    write_report(make_run(tmp_path))
    for path in (tmp_path / "figures").iterdir():
        drawn = path.read_text(encoding="utf-8").split("</style>", 1)[1]
        assert set(re.findall(r"(?:fill|stroke): (#\w{6})", drawn)) <= set(AT_NIGHT), path.name


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(tmp_path):
    page = read_page(make_run(tmp_path))
    for text in (page, *pictures(page)):
        without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        assert not re.search(r"https?:|//\w+\.|@import|url\((?!#)|<script|\son\w+=", without_namespaces)
    assert {tag for tag, _ in parsed(page)}.isdisjoint({"script", "link", "iframe", "object", "a"})


def test_the_same_run_gives_the_same_bytes_whatever_matplotlib_was_told(tmp_path):
    folder = make_run(tmp_path)
    first = {path: path.read_bytes() for path in [write_report(folder), *(folder / "figures").iterdir()]}
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "other", "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        write_report(folder)
        assert dict(matplotlib.rcParams) == before
    assert {path: path.read_bytes() for path in first} == first


def test_what_the_files_say_is_text_not_markup(tmp_path):
    evil = '<script>alert("1")</script>&amp; $x^{2$'
    layers = [{"name": evil + "\x00\ud800", "total": 10, "nonzeros": 5}]
    versions = {evil: evil}
    config = {"recipe": evil, "command": evil, evil: evil, "nested": {evil: [evil]}, "versions": versions}
    page = read_page(make_run(tmp_path, config=config, summary={**SUMMARY, "layers": layers}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert {tag for tag, _ in parsed(page)}.isdisjoint({"script"})
    for svg in pictures(page):
        ElementTree.fromstring(svg)
        assert "<script" not in svg


@pytest.mark.parametrize(
    ("lines", "headline", "figures"),
    [
        ([], "no epoch is complete yet", set()),
        ([*epochs("sgd", 1)], "the dense baseline is at epoch 1 of 4", FIGURES - {"layers", "histogram"}),
        ([*epochs("sgd"), *epochs("grda", 2)], "gRDA is at epoch 2 of 4", FIGURES - {"layers", "histogram"}),
    ],
)
def test_a_run_under_way_has_a_page_of_what_is_there(tmp_path, lines, headline, figures):
    page = read_page(make_run(tmp_path, lines, summary=None))
    assert f"Not finished: {headline}" in visible(page)
    assert len(pictures(page)) == len(figures)
    assert {path.stem for path in tmp_path.glob("figures/*")} == figures
    parsed(page)


def test_a_run_without_metrics_file_has_a_page(tmp_path):
    make_run(tmp_path, summary=None)
    (tmp_path / "metrics.jsonl").unlink()
    assert "no epoch is complete yet" in visible(read_page(tmp_path))


def test_what_is_not_finite_is_said_to_be_so_and_never_a_number(tmp_path):
    lines = [*epochs("sgd"), *epochs("grda")]
    for line in lines[-2:]:
        line.update(train_loss=None, validation_loss=math.nan, validation_accuracy=None, sparsity_all=None)
    summary = {**SUMMARY, "grda": {"test_accuracy": None, "test_loss": math.inf, "sparsity_all": 0.9261}}
    page = read_page(make_run(tmp_path, lines, summary))
    text = visible(page)
    assert "not finite" in text
    assert "test accuracy" not in text.split("Result")[0]
    assert "nan" not in re.findall(r"\w+", text.lower())
    assert len(pictures(page)) == len(FIGURES)


def test_nothing_finite_at_all_still_gives_pictures():
    lines = [
        dict.fromkeys(("train_loss", "validation_accuracy", "sparsity_all", "lr", "threshold"), None)
        | {"network": network, "epoch": epoch}
        for network in ("sgd", "grda")
        for epoch in (1, 2)
    ]
    for name in ("loss", "accuracy", "sparsity", "schedule"):
        ElementTree.fromstring(to_svg(figure_of(name, lines)))


@pytest.mark.parametrize("losses", [(0.0, 0.0), (1e30, 0.0), (2.301, 2.302), (1e-12, 1e12), (-1.0, 1.0)])
def test_losses_of_any_size_can_be_drawn(losses):
    lines = [{"network": "sgd", "epoch": epoch, "train_loss": loss} for epoch, loss in enumerate(losses, start=1)]
    ElementTree.fromstring(to_svg(figure_of("loss", lines)))


@pytest.mark.parametrize("key", [key for key in SUMMARY if key != "recipe"])
def test_a_summary_without_one_part_gives_a_page_without_it(tmp_path, key):
    page = read_page(make_run(tmp_path, summary={name: part for name, part in SUMMARY.items() if name != key}))
    assert len(pictures(page)) == len(FIGURES) - (key in ("layers", "histogram"))
    parsed(page)


@pytest.mark.parametrize("key", ["epochs", "lr", "train_loss", "validation_accuracy", "sparsity_all", "threshold"])
def test_metrics_without_one_number_give_a_page_without_it(tmp_path, key):
    lines = [{name: value for name, value in line.items() if name != key} for line in (*epochs("sgd"), *epochs("grda"))]
    assert len(pictures(read_page(make_run(tmp_path, lines)))) == len(FIGURES) - (key == "train_loss")


def test_without_validation_the_training_accuracy_is_shown_and_named_so():
    lines = [{"network": "sgd", "epoch": 1, "train_accuracy": 0.5}]
    assert "training accuracy, %" in to_svg(figure_of("accuracy", lines))
    assert "validation accuracy, %" in to_svg(figure_of("accuracy", [{**lines[0], "validation_accuracy": 0.4}]))


def test_an_empty_configuration_is_enough(tmp_path):
    page = read_page(make_run(tmp_path / "my run", [], None, config={}))
    assert "my run" in visible(page)
    assert "Configuration" not in page
    assert "Run it again" not in page


def test_the_accuracy_axis_cuts_nothing_and_drops_on_the_way_are_explained(tmp_path):
    lines = [*epochs("sgd", epochs=40), *epochs("grda", epochs=40)]
    lines[4].update(validation_accuracy=0.1)
    assert figure_of("accuracy", lines).axes[0].get_ylim()[0] < 10
    assert "Sharp drops on the way are real" in visible(read_page(make_run(tmp_path, lines)))


def test_pictures_hold_the_numbers_they_were_given(tmp_path):
    lines = [*epochs("sgd"), *epochs("grda")]
    drawn = figure_of("loss", lines).axes[0].lines[0].get_xydata()
    assert drawn.tolist() == [[epoch, 1 / epoch**2] for epoch in (1, 2, 3, 4)]
    bars = [bar.get_width() for bar in layers_figure(read_run(make_run(tmp_path)).summary["layers"]).axes[0].patches]
    assert bars[2:] == pytest.approx([100 * (1 - 120 / 288), 100 * (1 - 500 / 1280)])
    assert "734 weights" in to_svg(histogram_figure(SUMMARY["histogram"]))
    assert [len(figure_of("schedule", lines).axes), len(figure_of("schedule", [*epochs("sgd")]).axes)] == [2, 1]
    for name in ("loss", "accuracy", "sparsity", "schedule", "norm_ratio"):
        assert figure_of(name, []) is None
    assert layers_figure([]) is histogram_figure({}) is None


def test_labels_beside_a_panel_never_touch():
    lines = [*epochs("sgd"), *epochs("grda", sparsity_all=0.999, sparsity_prunable=0.9991)]
    axes = figure_of("sparsity", lines).axes[0]
    heights = sorted(text.xy[1] for text in axes.texts if "\n" in text.get_text())
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    assert len(heights) == 3
    assert all((above - below) * height > 27.9 for below, above in pairwise(heights))


def test_an_epoch_written_twice_counts_once_as_written_last(tmp_path):
    run = read_run(make_run(tmp_path, [*epochs("sgd", 3), *epochs("sgd", 2, train_loss=7.0)]))
    assert [record["train_loss"] for record in run.of("sgd")] == [7.0, 7.0, 1 / 9]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_last_line_cut_short_is_left_out(tmp_path, cut):
    make_run(tmp_path, summary=None)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut] if cut > 1 else path.read_bytes() + b'{"network": "gr\xc3')
    assert len(read_run(tmp_path).metrics) == (8 if cut == 1 else 7)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"network": "sgd", "ep', "not JSON"),
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"network": "adam", "epoch": 1}', "invalid network: 'adam'"),
        ('{"network": "sgd", "epoch": 1.5}', "invalid epoch: 1.5"),
        ('{"network": "sgd", "epoch": 1, "lr": "fast"}', "lr: not a number: 'fast'"),
    ],
)
def test_any_other_broken_line_is_named_with_its_file_and_number(tmp_path, line, reason):
    path = make_run(tmp_path) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(CorruptFileError, match=re.escape(f"{path}, line 2: ") + ".*" + re.escape(reason)) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"versions": 3}'),
        ("summary.json", ""),
        ("summary.json", "[" * 100_000),
        ("summary.json", '{"grda": 1}'),
        ("summary.json", '{"grda": {"test_accuracy": "high"}}'),
        ("summary.json", '{"layers": {}}'),
        ("summary.json", '{"layers": [1]}'),
        ("summary.json", '{"layers": [{"name": "a", "total": true}]}'),
        ("summary.json", '{"histogram": {"edges": [0, 1], "sgd": [1, 2]}}'),
        ("summary.json", '{"histogram": {"edges": 3}}'),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, name, content):
    path = make_run(tmp_path) / name
    path.write_text(content)
    with pytest.raises(CorruptFileError, match=re.escape(str(path))) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run folder \(no config.json\): .*" + re.escape(tmp_path.name)):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such run folder: .*missing"):
        write_report(tmp_path / "missing")


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    page = write_report(make_run(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full_disk(path, text, **_):
        path.write_bytes(text[:100].encode())
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert page in before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_torch_is_loaded():
    code = "import directional_pruning.report, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "directional_pruning.report.run_page" in done.stdout.split()
    assert "torch" not in done.stdout.split()


def test_a_run_of_a_published_setting_stands_beside_the_paper(tmp_path):
    config = {**CONFIG, "recipe": "vgg16-cifar10", "c": 0.0005, "mu": 0.51, "paper_protocol": True}
    lines = [*epochs("sgd", norm_ratio=3e-4), *epochs("grda", norm_ratio=6e-4)]
    page = read_page(make_run(tmp_path, lines, config=config))
    text = visible(page)
    table = text.split("The paper ")[1].split("Training ")[0]
    for said in (
        "61.41 % ± 0.13",
        "92.61 %",
        "+31.20",
        "91.02 % ± 0.15",
        "99.44 %",
        "+8.42",
        "90.82 % ± 0.18",
        "+8.71",
        "Threshold at the end 0.0223 0.04 –",
    ):
        assert said in table
    assert "shortened: 4 epochs" in table
    assert "held out" not in table
    assert len(pictures(page)) == len(FIGURES) + 1
    assert "test accuracy, %" in (tmp_path / "figures" / "accuracy.svg").read_text(encoding="utf-8")
    assert "dashed: the paper, 600 epochs" in (tmp_path / "figures" / "norm_ratio.svg").read_text(encoding="utf-8")


def test_an_unpublished_run_has_its_norm_ratio_and_nothing_of_the_paper(tmp_path):
    lines = [*epochs("sgd", norm_ratio=3e-4), *epochs("grda", norm_ratio=6e-4)]
    axes = figure_of("norm_ratio", lines).axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.3] * 4)
    page = read_page(make_run(tmp_path, lines))
    assert "<h2>The paper</h2>" not in page
    assert "dashed" not in (tmp_path / "figures" / "norm_ratio.svg").read_text(encoding="utf-8")


def test_a_run_of_the_papers_setting_under_way_shows_what_is_published(tmp_path):
    config = {**CONFIG, "recipe": "resnet50-imagenet", "c": 0.005, "mu": 0.55, "paper_protocol": True, "epochs": 150}
    text = visible(read_page(make_run(tmp_path, [*epochs("sgd", 1)], None, config)))
    assert "Zeros, all parameters 91.59 % – –" in text
    assert "Test accuracy 60.00 %" in text
    assert "One run of resnet50-imagenet" in text


def test_the_axis_ends_soon_after_the_last_epoch_there_is():
    lines = [*epochs("sgd", 2, epochs=600, norm_ratio=3e-4)]
    for name in ("loss", "accuracy", "sparsity", "schedule"):
        assert figure_of(name, lines).axes[0].get_xlim() == pytest.approx((0, 2.2))
    axes = figure_of("norm_ratio", lines, "vgg16-cifar10", c=0.0005, mu=0.51).axes[0]
    assert axes.get_xlim() == pytest.approx((0, 2.2))
    dashed = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [[0, 1, 5]] * 2


def test_the_published_norm_ratio_is_drawn_to_the_runs_length():
    axes = figure_of("norm_ratio", epochs("grda", norm_ratio=6e-4), "vgg16-cifar10", c=0.0005, mu=0.51).axes[0]
    dashed = [line.get_xydata()[-1].tolist() for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx([4 * 599 / 600, x]) for x in (0.35286, 0.61854)]
