"""Runs with a target: the share of zeros that was asked for, stopped and resumed, and what pages and tables say."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from directional_pruning import cli
from directional_pruning.data import TextSplits, Windows
from directional_pruning.report import comparison_rows, write_comparison, write_report
from directional_pruning.runs import (
    chars_recipe,
    create_run,
    create_sweep,
    digits_recipe,
    load_run,
    sweep_runs,
    train_run,
    variants,
)
from directional_pruning.training import TrainingStopped

CPU = torch.device("cpu")
DIGITS = replace(digits_recipe(), epochs=2, target=0.9)

pytestmark = pytest.mark.usefixtures("one_thread")


def small(recipe):
    """The recipe's data, of the text a few windows."""
    splits = recipe.splits(CPU)
    if isinstance(splits, TextSplits):
        return splits._replace(
            train=replace(splits.train, samples=64),
            validation=Windows(splits.validation.text[:2000], 64),
            test=Windows(splits.test.text[:2000], 64),
        )
    return splits


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("target") / "run"
    create_run(folder, DIGITS, CPU)
    train_run(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "target"), [(digits_recipe(), 0.97), (replace(digits_recipe(), skip=()), 0.5), (chars_recipe(), 0.8)]
)
def test_a_run_ends_with_the_zeros_that_were_asked_for_among_the_weights_that_are_pruned(
    tmp_path, monkeypatch, recipe, target
):
    recipe = replace(recipe, epochs=1 if recipe.name == "digits" else 2, target=target)
    monkeypatch.setattr("directional_pruning.runs.run.load_run", lambda folder: (recipe, CPU))
    create_run(tmp_path / "run", recipe, CPU)
    summary = train_run(tmp_path / "run", splits=small(recipe))
    pruned = [layer for layer in summary["layers"] if layer["pruned"]]
    zeros = 1 - sum(layer["nonzeros"] for layer in pruned) / sum(layer["total"] for layer in pruned)
    assert abs(zeros - target) < 1e-4
    assert summary["grda"]["sparsity_pruned"] == pytest.approx(zeros)
    assert not [finding for finding in summary["outcome"] if finding["kind"] == "target missed"]
    assert summary["sgd"]["sparsity_all"] == 0


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path, run):
    create_run(tmp_path / "run", DIGITS, CPU)
    assert load_run(tmp_path / "run")[0] == DIGITS
    steps = 0

    def stop():
        nonlocal steps
        steps += 1
        return steps >= 61  # in the second epoch of the sparse network

    with pytest.raises(TrainingStopped):
        train_run(tmp_path / "run", stop=stop)
    assert not (tmp_path / "run" / "summary.json").exists()
    train_run(tmp_path / "run")
    for network in ("sgd", "grda"):
        file = f"{network}/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()


@pytest.mark.slow
def test_the_page_and_the_tables_say_what_was_asked_and_reached_and_nothing_of_c(run, capsys, monkeypatch):
    page = write_report(run).read_text()
    assert "Zeros, pruned weights (target 90.0\xa0%)</th><td>–</td><td>90.00\xa0%" in page
    assert "The threshold follows a wanted share of zeros, at the end 90.0\xa0%" in page
    assert "never falls" not in page
    assert '<th scope="row">target</th><td>0.9</td>' in page
    assert '<th scope="row">c</th>' not in page
    assert "--target 0.9" in page
    assert "--c " not in page
    (row,) = comparison_rows([run])
    assert (row.label, row.target) == ("target 90.0\xa0%", 0.9)
    asked = "zeros of the pruned weights: asked 90.00\xa0%, reached 90.00\xa0%"
    assert asked in write_comparison([run], run / "comparison.html").read_text()
    monkeypatch.setattr(sys, "argv", ["dirprune", "compare", str(run), "--out", str(run / "comparison.html")])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"target 90.0\xa0%: {asked}" in capsys.readouterr().out


def test_a_target_and_the_law_are_settings_apart_and_share_the_baseline(tmp_path):
    recipes = [*variants("digits", several={"target": [0.8, 0.9, 0.8]}), digits_recipe()]
    create_sweep(tmp_path / "sweep", recipes, CPU)
    runs = sweep_runs(tmp_path / "sweep")
    assert [run.name for run in runs] == ["seed0-target0.8", "seed0-target0.9", "seed0-c0.01-mu0.7"]
    assert [(run / "sgd").is_symlink() for run in runs] == [False, True, True]
    assert [load_run(run)[0] for run in runs] == recipes
    assert [row.label for row in comparison_rows([tmp_path])] == ["μ 0.7", "target 80.0\xa0%", "target 90.0\xa0%"]
    commands = [json.loads((run / "config.json").read_text())["command"] for run in runs]
    assert [("--target" in command, "--c " in command) for command in commands] == [(True, False)] * 2 + [(False, True)]


def test_a_target_is_not_a_setting_of_the_paper(tmp_path):
    (recipe,) = variants("vgg16-cifar10", several={"target": [0.9]})
    create_run(tmp_path / "run", recipe, CPU)
    (row,) = comparison_rows([tmp_path / "run"])
    assert row.published == {}
    assert "not a setting of the paper" in row.flags


@pytest.mark.parametrize("several", [{"c": [0.1]}, {"mu": [0.6]}])
def test_a_target_with_c_or_mu_is_refused(several):
    with pytest.raises(ValueError, match="give --target, or --c and --mu"):
        variants("digits", several={"target": [0.9], **several})


@pytest.mark.parametrize("target", [0.0, 1.0, 95, -0.1, float("nan")])
def test_a_target_that_is_no_share_is_refused(target):
    with pytest.raises(ValueError, match=rf"invalid target: {target} \(must be a share of zeros such as 0.95"):
        variants("digits", several={"target": [target]})


def test_a_target_without_the_number_of_updates_is_refused():
    with pytest.raises(ValueError, match="invalid steps: 0"):
        DIGITS.optimizer(DIGITS.network(), "grda")
