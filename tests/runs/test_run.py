"""A run: its folder, its two networks, and how it resumes."""

import json
import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from directional_pruning import load_sparse
from directional_pruning.data import Images, TextSplits, chars, digits
from directional_pruning.files import CorruptFileError
from directional_pruning.models import digits_net
from directional_pruning.runs import RECIPES, chars_recipe, create_run, digits_recipe, load_run, move_run, train_run
from directional_pruning.tensors import pick_device
from directional_pruning.training import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_compiled_network_trains_to_the_same_weights(tmp_path):
    ends = []
    for compiled in (False, True):
        recipe = replace(digits_recipe(), epochs=1, compile=compiled, seed=4)
        folder = tmp_path / str(compiled)
        create_run(folder, recipe, torch.device("cpu"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler
            train_run(folder)
        ends.append(load_file(folder / "grda" / "model.safetensors"))
    assert ends[0].keys() == ends[1].keys()
    for name, weights in ends[0].items():
        torch.testing.assert_close(ends[1][name], weights, rtol=0.02, atol=0.01)


def test_label_smoothing_is_for_training_alone(tmp_path):
    recipe = replace(digits_recipe(), epochs=3, c=0.0, label_smoothing=0.5)
    create_run(tmp_path / "run", recipe, torch.device("cpu"))
    train_run(tmp_path / "run")
    net = digits_net()
    *_, line = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    net.load_state_dict(torch.load(tmp_path / "run" / "sgd" / "checkpoint.pt", weights_only=True)["model"])
    plain = evaluate(net, digits().validation.batches(64))
    assert line["validation_loss"] == pytest.approx(plain["loss"], rel=1e-6)
    smoothed = evaluate(net, digits().validation.batches(64), partial(nn.functional.cross_entropy, label_smoothing=0.5))
    assert smoothed["loss"] > plain["loss"] + 0.3
    assert line["train_loss"] > 1  # with label smoothing 0.5 even the smallest possible loss is 1.3


def test_the_epochs_are_tensorboard_events_too(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    create_run(tmp_path / "run", replace(digits_recipe(), epochs=2, tensorboard=True), torch.device("cpu"))
    for _ in range(2):  # gone on with, it writes each epoch once
        train_run(tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "grda"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    records = [line for line in lines if line["network"] == "grda"]
    logged = [(event.step, event.value) for event in events.Scalars("sparsity_all")]
    assert logged == [(record["epoch"], pytest.approx(record["sparsity_all"])) for record in records]


def test_a_run_holds_what_it_says_and_both_networks_share_start_and_batches(tmp_path):
    folder = tmp_path / "runs" / "first"
    recipe = replace(digits_recipe(), epochs=2, seed=3, c=0.0)
    create_run(folder, recipe, torch.device("cpu"))
    assert load_run(folder) == (recipe, torch.device("cpu"))
    summary = train_run(folder)
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    # Without pruning both networks are equal, so start and batches were the same.
    assert summary["sgd"]["test_accuracy"] == summary["grda"]["test_accuracy"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    both = [[{**x, "network": "", "seconds": 0} for x in lines if x["network"] == name] for name in ("sgd", "grda")]
    assert both[0] == both[1]
    assert len(both[0]) == 2

    net = digits_net()
    net.load_state_dict(load_sparse(folder / "model.sparse.safetensors"))
    assert evaluate(net, digits().test.batches(64))["accuracy"] == summary["grda"]["test_accuracy"]
    assert summary["grda"]["sparse_bytes"] == (folder / "model.sparse.safetensors").stat().st_size
    assert summary["sgd"]["bytes"] == (folder / "sgd" / "model.safetensors").stat().st_size
    assert sum(layer["total"] for layer in summary["layers"]) == summary["parameters"] == 94_186
    weights = sum(layer["total"] for layer in summary["layers"] if layer["prunable"])
    for name in ("sgd", "grda"):
        assert sum(summary["histogram"][name]) + summary["histogram"][f"{name}_zeros"] == weights
    with pytest.raises(FileExistsError):
        create_run(folder, recipe, torch.device("cpu"))


def test_the_characters_train_a_dense_baseline_and_a_network_sparse_where_it_may_be(tmp_path, monkeypatch):
    def some_text(device, recipe):
        return TextSplits(*(replace(part, text=part.text[:4000]) for part in chars(device, samples=64)))

    recipe = chars_recipe()
    recipe = replace(recipe, dataset=replace(recipe.dataset, load=some_text), epochs=3, c=2.0)
    monkeypatch.setitem(RECIPES, "chars", lambda: recipe)
    create_run(tmp_path / "run", recipe, torch.device("cpu"))
    summary = train_run(tmp_path / "run")
    assert "AdamW" in repr(recipe.optimizer(recipe.network(), "sgd"))
    for network in ("sgd", "grda"):
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        records = [x for x in map(json.loads, lines) if x["network"] == network]
        assert [record["lr"] for record in records] == pytest.approx([recipe.lr * f for f in (1 / 3, 2 / 3, 1)])
        assert records[-1]["validation_loss"] < records[0]["validation_loss"] < math.log(96) + 0.2
        assert 0 < summary[network]["test_accuracy"] < 1
    assert summary["sgd"]["sparsity_all"] == 0
    spared = ("embedding", "position", "head", "norm", "bias")
    for layer in summary["layers"]:
        pruned = not any(part in layer["name"] for part in spared)
        assert (layer["nonzeros"] < layer["total"]) == pruned, layer


def test_another_seed_is_another_start_and_another_order(tmp_path, monkeypatch):
    orders = []
    shuffled = Images.batches
    monkeypatch.setattr(Images, "batches", lambda self, size, **kw: orders.append(kw) or shuffled(self, size, **kw))
    starts = []
    for seed in (0, 1):
        recipe = replace(digits_recipe(), epochs=1, seed=seed, lr=1e-9, c=0.0)
        create_run(tmp_path / str(seed), recipe, torch.device("cpu"))
        train_run(tmp_path / str(seed))
        starts.append(torch.load(tmp_path / str(seed) / "sgd" / "checkpoint.pt", weights_only=True)["model"])
    assert (starts[0]["conv1.weight"] - starts[1]["conv1.weight"]).abs().mean() > 0.01
    seeds = [kw["shuffle_seed"] for kw in orders if "shuffle_seed" in kw]
    assert len(seeds) == 4  # two runs of two networks
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": "nothing"}', '{"recipe": "digits", "epochs": 1}'])
def test_a_broken_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"config\.json is not a readable configuration"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"seed": 2**32}, "invalid seed"),
        ({"lr": 1e300}, r"invalid lr: 1e\+300"),
        ({"epochs": 0}, "invalid epochs: 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"mu": 2}, "mu: 2"),
    ],
)
def test_a_recipe_out_of_range_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        replace(digits_recipe(), **override)


def test_a_run_goes_on_where_there_is_no_such_device_and_older_ones_are_read(tmp_path):
    create_run(tmp_path / "run", digits_recipe(), torch.device("cpu"))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["versions"]["device"] = "cuda:99"
    del config["momentum"]  # a setting younger than the run
    path.write_text(json.dumps(config))
    assert load_run(tmp_path / "run") == (digits_recipe(), pick_device())
    move_run(tmp_path / "run", torch.device("cpu"), epochs=7)
    assert load_run(tmp_path / "run") == (replace(digits_recipe(), epochs=7), torch.device("cpu"))
    with pytest.raises(ValueError, match="invalid epochs: 0"):
        move_run(tmp_path / "run", torch.device("cpu"), epochs=0)
    assert load_run(tmp_path / "run")[0].epochs == 7


def test_what_killed_writes_left_is_cleared_and_records_outlive_a_broken_checkpoint(tmp_path):
    run = tmp_path / "run"
    create_run(run, replace(digits_recipe(), epochs=1), torch.device("cpu"))
    train_run(run)
    left = run / "grda" / ".checkpoint.pt.123.tmp"
    left.write_bytes(b"half")
    (run / "grda" / "checkpoint.pt").write_bytes(b"broken")
    records = (run / "metrics.jsonl").read_text()
    with pytest.raises(CorruptFileError):
        train_run(run)
    assert (run / "metrics.jsonl").read_text() == records
    assert not left.exists()
