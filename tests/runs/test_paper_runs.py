"""The paper's recipes from end to end, on a few images that the tests make."""

import html
import json
import sys
from dataclasses import replace

import programs
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from directional_pruning import cli
from directional_pruning.runs import (
    RECIPES,
    check_network,
    create_folder,
    create_run,
    load_run,
    move_run,
    sweep_runs,
    train_run,
    variants,
)
from directional_pruning.runs.export import export_run
from directional_pruning.training import evaluate

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TRAIN = ["-m", "directional_pruning", "train"]


def make_images(folder, sets, classes, size, suffix="png"):
    """``folder/SET/CLASS/*``: noise around a colour of the class."""
    generator = torch.Generator().manual_seed(0)
    for name, each in sets.items():
        for label in range(classes):
            place = folder / name / f"{label:02}"
            place.mkdir(parents=True)
            for i in range(each):
                pixels = torch.randint(120, (*size, 3), generator=generator) + 120 * (label >> torch.arange(3) & 1)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{i}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("cifar"), {"train": 6, "test": 2}, 10, (32, 32))


def test_the_command_trains_the_papers_vgg16_and_compares_it_with_the_paper(cifar, tmp_path):
    flags = ("--data", cifar, "--epochs", 1, "--batch-size", 16, "--paper-protocol", "--out", "run")
    code, out, err = programs.run(*TRAIN, "vgg16-cifar10", *flags, cwd=tmp_path)
    assert code == 0, err
    other = "other data: 60 images to train and validate, 20 to test; the paper's are 50,000 and 10,000"
    for text in ("paper, 10 seeds", "90.82% / 90.86%", "90.48%", "15,245,130 parameters", f"beside the paper: {other}"):
        assert text in out
    run = tmp_path / "run"
    config = json.loads((run / "config.json").read_text())
    assert config["data"] == str(cifar)
    assert f"--data {cifar}" in config["command"]
    assert "--paper-protocol" in config["command"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for line in lines:
        # All 60 images train, and what is watched is the test set.
        assert line["step"] == 4
        assert line["validation_accuracy"] == summary[line["network"]]["test_accuracy"]
    page = (run / "report.html").read_text()
    assert "The paper" in page
    assert html.escape(other) in page
    # The sparse file needs only the weights, not the data.
    cifar.rename(cifar.with_name("away"))
    try:
        assert export_run(run, "sparse", out=tmp_path / "small.safetensors").stat().st_size > 0
    finally:
        cifar.with_name("away").rename(cifar)


@pytest.mark.parametrize("mus", [[0.6], [0.6, 0.7]])
def test_every_run_notes_the_images_of_its_data_held_out_ones_too(cifar, tmp_path, mus):
    recipes = variants("vgg16-cifar10", {"data": str(cifar)}, {"mu": mus})
    splits = recipes[0].splits(CPU)
    assert len(splits.train) == 54
    folder = create_folder(tmp_path / "runs", recipes, CPU, splits)
    configs = [json.loads((run / "config.json").read_text()) for run in sweep_runs(folder)]
    assert [(config["training_images"], config["test_images"]) for config in configs] == [(60, 20)] * len(mus)


def run_of(folder, name, **changes):
    recipe = replace(RECIPES[name](), **changes)
    create_run(folder, recipe, CPU)
    return recipe, train_run(folder)


def test_without_pruning_both_networks_are_equal_also_in_bfloat16(cifar, tmp_path):
    small = {"data": str(cifar), "epochs": 1, "batch_size": 16, "model": "digits_net", "precision": "bfloat16"}
    one_channel = replace(RECIPES["vgg16-cifar10"](), **small)
    with pytest.raises(ValueError, match=r"model digits_net does not take samples of \(3, 32, 32\): .*channels"):
        check_network(one_channel, one_channel.splits(CPU))
    small |= {"model": "timm:resnet10t", "c": 0.0, "paper_protocol": True, "momentum": 0.9}
    recipe, summary = run_of(tmp_path / "run", "vgg16-cifar10", **small)
    assert load_run(tmp_path / "run")[0] == recipe
    assert summary["sgd"]["test_loss"] == summary["grda"]["test_loss"]
    one, other = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("sgd", "grda"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_modern_recipe_does_not_prune_norms_and_biases(cifar, tmp_path):
    small = {"data": str(cifar), "epochs": 2, "batch_size": 20, "model": "timm:resnet10t", "paper_protocol": True}
    _, summary = run_of(tmp_path / "run", "vgg16-cifar10-modern", c=0.5, **small)
    for layer in summary["layers"]:
        spared = not layer["prunable"] or "bias" in layer["name"]
        assert (layer["nonzeros"] == layer["total"] or "norm" in layer["name"]) if spared else True, layer
    assert summary["grda"]["sparsity_prunable"] > 0.2
    assert summary["sgd"]["sparsity_prunable"] < 0.01


def test_photographs_train_a_resnet_and_held_out_ones_are_watched(tmp_path):
    data = make_images(tmp_path / "photos", {"train": 8, "val": 2}, 3, (40, 56), "jpg")
    small = {"data": str(data), "num_classes": 3, "epochs": 1, "batch_size": 8, "model": "torchvision:resnet18"}
    recipe, summary = run_of(tmp_path / "run", "resnet50-imagenet", **small, workers=0, samples=20)
    assert 0 <= summary["grda"]["test_accuracy"] <= 1
    assert summary["grda"]["sparsity_all"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {3}
    splits = recipe.splits(CPU)
    net = recipe.network()
    net.load_state_dict(load_file(tmp_path / "run" / "grda" / "model.safetensors"))
    assert evaluate(net, splits.test.batches(8))["accuracy"] == summary["grda"]["test_accuracy"]


def test_the_place_of_the_data_is_kept_and_can_change(cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("DIRPRUNE_DATA", str(cifar))
    (recipe,) = variants("vgg16-cifar10", {"epochs": 3})
    assert recipe.data == str(cifar)
    assert variants("digits")[0].data == ""
    assert variants("vgg16-cifar10", {"data": "elsewhere"})[0].data == "elsewhere"
    create_run(tmp_path / "run", recipe, CPU)
    monkeypatch.delenv("DIRPRUNE_DATA")
    assert load_run(tmp_path / "run")[0].data == str(cifar)
    code, _, err = programs.run(*TRAIN, "--resume", "run", "--data", "nowhere", cwd=tmp_path)
    assert (code, err) == (2, f"dirprune: {tmp_path}/nowhere does not exist\n")
    assert load_run(tmp_path / "run")[0].data == str(cifar)  # a mistake leaves the run as it was
    moved = cifar.rename(cifar.with_name("moved"))
    try:
        code, _, err = programs.run(*TRAIN, "--resume", "run", "--data", moved, "--num-classes", "10", cwd=tmp_path)
        assert (code, "give nothing else but --data" in err) == (2, True)
        splits = replace(recipe, data=str(moved)).splits(CPU)
        move_run(tmp_path / "run", CPU, data=str(moved))
        assert len(load_run(tmp_path / "run")[0].splits(CPU).train) == len(splits.train) == 54
    finally:
        moved.rename(cifar)


def test_cifar_has_nothing_to_decode(cifar):
    with pytest.raises(ValueError, match="invalid workers: 2"):
        replace(RECIPES["vgg16-cifar10"](), data=str(cifar), workers=2).splits(CPU)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("vgg16-cifar10", "--data", "nowhere"), "nowhere does not exist"),
        (("vgg16-cifar10", "--data", "DATA", "--num-classes", "5"), "invalid num_classes: 5"),
        (("vgg16-cifar10", "--data", "DATA", "--model", "vgg99"), "vgg99"),
        (("vgg16-cifar10", "--data", "DATA", "--precision", "half"), "invalid precision: half"),
        (("digits", "--data", "DATA"), "the data of digits are always the same"),
        (("digits", "--paper-settings"), "invalid --paper-settings: digits has none"),
        (
            ("vgg16-cifar10", "--paper-settings", "--mu", ".5"),
            "--paper-settings are all pairs of c and mu: give neither",
        ),
        (("resnet50-imagenet", "--data", "DATA"), "--num-classes 10"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(cifar, tmp_path, monkeypatch, capsys, args, message):
    args = [str(cifar) if arg == "DATA" else arg for arg in args]
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dirprune", "train", *args])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    torch.set_flush_denormal(False)  # which the command sets for the whole process, and the threads
    torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []
