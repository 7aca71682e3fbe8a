"""The judgement of a finished run: what failed, what is chance, and where a user reads it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from directional_pruning import cli
from directional_pruning.report import comparison_rows, write_comparison, write_report
from directional_pruning.runs import create_run, digits_recipe, train_run
from directional_pruning.runs.outcome import judge_run

FULL, EMPTY, HALF = 100, 0, 50


def layers(*nonzeros, bias=10):
    weights = [
        {"name": f"conv{i}.weight", "total": 100, "nonzeros": n, "prunable": True, "pruned": True}
        for i, n in enumerate(nonzeros)
    ]
    return [*weights, {"name": "bias", "total": 10, "nonzeros": bias, "prunable": False, "pruned": False}]


def judge(dense, sparse, parts=None, *, c=0.01, samples=450, majority=0.1, loss=1.0, **options):
    dense, sparse = ({"test_accuracy": accuracy, "test_loss": loss} for accuracy in (dense, sparse))
    parts = layers(HALF, HALF) if parts is None else parts
    return judge_run(dense, sparse, parts, c=c, samples=samples, majority=majority, **options)


@pytest.mark.parametrize(
    ("findings", "kinds"),
    [
        (judge(0.99, 0.99), []),
        (judge(0.99, 0.1, layers(EMPTY, EMPTY)), ["constant"]),
        (judge(0.99, 0.99, target=0.5), []),
        (judge(0.99, 0.99, target=0.7), ["target missed"]),
        (judge(0.99, 0.1, layers(EMPTY, HALF), c=0, target=0.9), ["target missed", "empty layer", "at chance"]),
        (judge(0.99, 0.1, layers(EMPTY, HALF)), ["empty layer", "at chance"]),
        (judge(0.99, 0.99, layers(EMPTY, EMPTY, HALF)), ["empty layers"]),
        (judge(0.99, 0.1), ["at chance"]),
        (judge(0.99, 0.128), ["at chance"]),  # 2 standard errors above 10 % are 12.8 %
        (judge(0.99, 0.14), ["far below"]),
        (judge(0.1, 0.1), ["at chance"]),  # of the dense baseline: neither learned, and c is not to blame
        (judge(0.1, 0.1, layers(EMPTY, EMPTY)), ["at chance", "constant"]),
        (judge(0.99, 0.99, layers(FULL, FULL)), ["no zeros"]),
        (judge(0.99, 448 / 450, layers(FULL, FULL)), ["no zeros", "within chance"]),
        (judge(0.99, 0.8, layers(EMPTY, HALF)), ["empty layer", "far below"]),
        (judge(0.05, 0.05, layers(FULL, FULL)), ["at chance"]),  # at so small a rate no threshold rises
        (judge(0.99, 0.99, layers(FULL, FULL), c=0), []),
        (judge(0.99, 0.99, layers(EMPTY, FULL), c=0), []),  # zeros that nobody pruned
        (judge(0.99, 0.1, c=0), ["at chance"]),
        (judge(0.99, 0.85), ["far below"]),
        (judge(0.99, 448 / 450), ["within chance"]),
        (judge(1.0, 449 / 450), ["within chance"]),
        (judge(0.9082, 0.9086, samples=10_000), ["within chance"]),
        (judge(0.95, 0.94, samples=10_000), ["less accurate"]),
        (judge(0.7324, 0.6551, samples=50_000, majority=0.001), ["far below"]),
        (judge(0.6871, 0.7060, samples=50_000, majority=0.001), ["more accurate"]),
        (judge(0.99, 0.97, loss=math.nan), ["not finite", "not finite"]),
        (judge(1.0, 1.0, majority=1.0), []),  # one class only: nothing can be better
        (judge(1.0, 0.0, majority=1.0), ["far below"]),
        (judge(0.99, 0.99, []), []),
    ],
)
def test_each_outcome_has_its_finding_and_an_ordinary_run_has_none(findings, kinds):
    assert [finding.kind for finding in findings] == kinds
    for finding in findings:
        assert "\n" not in finding.text
        assert finding.problem == (finding.kind not in ("within chance", "less accurate", "more accurate"))
        assert not finding.problem or "--" in finding.text or finding.kind == "far below"  # says what to change


def test_a_small_difference_says_how_many_samples_it_is():
    (finding,) = judge(0.9933, 0.9956)
    assert finding.text == (
        "The accuracies differ by 1 of 450 test images: within chance (up to 4, two standard errors)"
    )
    (finding,) = judge(0.60, 0.59, samples=64_000, unit="characters")
    assert "640 of 64,000 test characters" in finding.text


def test_a_bias_of_zeros_is_no_empty_layer_but_a_pruned_matrix_is():
    parts = layers(HALF)
    parts[-1] |= {"nonzeros": 0, "pruned": True}
    assert judge(0.99, 0.99, parts) == []


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory):
    """A run whose threshold overtakes every weight."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    create_run(folder, replace(digits_recipe(), epochs=3, c=50.0), torch.device("cpu"))
    train_run(folder)
    return folder


@pytest.fixture
def run_command(monkeypatch):
    """Call the command with these words."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["dirprune", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0

    yield run
    torch.set_flush_denormal(False)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
class TestACollapsedRun:
    def test_says_so_in_its_summary_and_in_the_terminal(self, collapsed, run_command, capsys):
        (finding,) = json.loads((collapsed / "summary.json").read_text())["outcome"]
        assert finding["kind"] == "constant"
        assert "use a smaller --c than 50" in finding["text"]
        run_command("train", "--resume", collapsed)
        assert finding["text"] in capsys.readouterr().out
        run_command("train", "--resume", collapsed, "--quiet")
        assert capsys.readouterr() == (f"{collapsed}\n", f"{finding['text']}\n")

    def test_is_repeated_where_its_network_is_handed_on(self, collapsed, run_command, tmp_path, capsys):
        (finding,) = json.loads((collapsed / "summary.json").read_text())["outcome"]
        run_command("export", collapsed, "--format", "sparse", "--out", tmp_path / "net")
        run_command("compact", collapsed, "--out", tmp_path / "net.pt2")
        run_command("size", collapsed / "model.sparse.safetensors")
        assert capsys.readouterr().out.count(f"but: {finding['text']}\n") == 3

    def test_is_the_headline_of_its_page_and_nothing_praises_it(self, collapsed):
        page = write_report(collapsed).read_text(encoding="utf-8")
        headline = page[page.index("<h1>") : page.index("</h1>")]
        assert "The sparse network is constant" in headline
        assert "times less" not in page
        assert "cost no accuracy" not in page
        assert '<th scope="row">Outcome</th><td>–</td><td>constant</td>' in page

    def test_is_marked_in_a_comparison(self, collapsed, tmp_path, run_command, capsys):
        (row,) = comparison_rows([collapsed])
        page = write_comparison([collapsed], tmp_path / "page.html").read_text(encoding="utf-8")
        assert f'<tr class="flags problem"><td colspan="7">{row.problems[0].text}' in page
        run_command("compare", collapsed, "--out", tmp_path / "page.html")
        assert row.problems[0].text in capsys.readouterr().out

    def test_still_shows_where_the_summary_is_older_than_the_judgement(self, collapsed, tmp_path):
        summary = json.loads((collapsed / "summary.json").read_text())
        del summary["outcome"]
        for layer in summary["layers"]:
            del layer["pruned"]
        folder = tmp_path / "old"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.json").write_bytes((collapsed / "config.json").read_bytes())
        assert "10.0" in write_report(folder).read_text(encoding="utf-8")
        (problem,) = comparison_rows([folder])[0].problems
        assert problem.kind == "constant"
        assert problem.text in (folder / "report.html").read_text(encoding="utf-8")

    def test_is_named_while_the_run_is_under_way(self, collapsed, tmp_path):
        folder = tmp_path / "begun"
        folder.mkdir()
        for name in ("config.json", "metrics.jsonl"):
            (folder / name).write_bytes((collapsed / name).read_bytes())
        page = write_report(folder).read_text(encoding="utf-8")
        assert "The sparse network is constant: all its prunable weights are zero" in page
        assert "pruning cost no accuracy" not in page
