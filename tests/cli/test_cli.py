"""The command itself, as a person runs it."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest
import torch

from directional_pruning import cli
from directional_pruning.cli.train import train
from directional_pruning.files import locked
from directional_pruning.run_folder import STUDY_LOCK
from directional_pruning.runs import digits_recipe

pytestmark = pytest.mark.slow

DIRPRUNE = str(Path(sys.executable).with_name("dirprune"))


@pytest.fixture(autouse=True)
def _denormals():
    """The command flushes denormal numbers and sets the threads for the whole process; the tests after it differ."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def run(*args, cwd):
    return subprocess.CompletedProcess(args, *programs.run("-m", "directional_pruning", *args, cwd=cwd))


def refused(capsys, monkeypatch, *args):
    """Run the command in this process; return its exit code and the one line it printed."""
    monkeypatch.setattr(sys, "argv", ["dirprune", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dirprune: ")
    assert err.count("\n") == 1
    return stopped.value.code, err


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(folder):
    return [torch.load(folder / name / "checkpoint.pt", weights_only=True)["model"] for name in ("sgd", "grda")]


def test_train_trains_both_networks_shows_them_and_writes_the_run(tmp_path):
    command = [DIRPRUNE, "train", "digits", "--epochs", "3", "--seed", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("dense baseline", "sparse", "test accuracy", "zeros, of all parameters", "94,186 parameters"):
        assert text in done.stdout
    folder = tmp_path / "runs" / "digits-seed5"
    assert f"report: {folder.relative_to(tmp_path)}/report.html" in done.stdout
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "model.sparse.safetensors",
        "sgd/checkpoint.pt",
        "sgd/model.safetensors",
        "grda/checkpoint.pt",
        "grda/model.safetensors",
    } <= names
    assert any(name.startswith("figures/") for name in names)
    assert not any(name.endswith(".tmp") for name in names)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sgd"]["sparsity_all"] == 0 < summary["grda"]["sparsity_all"] < summary["grda"]["sparsity_prunable"]
    assert f"{summary['grda']['sparsity_all']:.2%}" in done.stdout
    assert len(metrics(folder)) == 6

    # The same command again is another run, the same numbers; its page can be drawn anew.
    again = run("train", "digits", "--epochs", 3, "--seed", 5, "--quiet", cwd=tmp_path)
    assert again.stdout == "runs/digits-seed5-2\n"
    other = tmp_path / "runs" / "digits-seed5-2"
    assert metrics(other) == metrics(folder)
    page = (other / "report.html").read_text()
    (other / "report.html").unlink()
    assert run("report", other, cwd=tmp_path).stdout.strip() == str(other / "report.html")
    assert (other / "report.html").read_text() == page


def test_killed_in_the_middle_and_resumed_ends_bit_identical(tmp_path):
    flags = ("train", "digits", "--epochs", 12, "--quiet", "--out")
    assert run(*flags, "whole", cwd=tmp_path).returncode == 0
    victim = programs.Program("-m", "directional_pruning", *flags, "killed", cwd=tmp_path)
    log = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    # In the sparse network, past its first checkpoint (epoch 5) and beyond it.
    while not (log.exists() and log.read_text().count('"network": "grda"') >= 7):
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    saved = torch.load(tmp_path / "killed" / "grda" / "checkpoint.pt", weights_only=True)
    assert len(saved["progress"]["records"]) < 12
    # A run under way has a page too.
    assert run("report", "killed", cwd=tmp_path).returncode == 0

    done = run("train", "--resume", "killed", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "killed\n")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for a, b in zip(weights(tmp_path / "killed"), weights(tmp_path / "whole"), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    names = ("model.sparse.safetensors", "sgd/model.safetensors", "grda/model.safetensors")
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def verbs_of(folder):
    return [
        ["train", "--resume", folder],
        ["report", folder],
        ["export", folder, "--format", "sparse"],
        ["compact", folder],
        *([verb, folder] for verb in ("curve", "plane", "curvature")),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "which recipe? (there is: digits, chars, vgg16-cifar10, "),
        (["train", "nothing"], "unknown recipe: nothing (there is: digits, chars, vgg16-cifar10, "),
        (["recipes", "nothing"], "unknown recipe: nothing"),
        (["train", "digits", "--lr", "-1"], "invalid lr: -1.0"),
        (["train", "digits", "--c", "nan"], "invalid c: nan"),
        (["train", "digits", "--mu", "2"], "invalid mu: 2.0"),
        (["train", "digits", "--target", "95"], "invalid target: 95.0 (must be a share of zeros such as 0.95"),
        (["train", "digits", "--target", "0.9", "--c", "0.1"], "give --target, or --c and --mu: a target sets"),
        (["train", "digits", "--epochs", "0"], "invalid epochs: 0"),
        (["train", "digits", "--epochs", "many"], "--epochs"),
        (["train", "digits", "--batch-size", "0"], "invalid batch_size: 0"),
        (["train", "digits", "--seed", "-1"], "invalid seed: -1"),
        (["train", "digits", "--device", "abacus"], "invalid device: abacus"),
        (["train", "digits", "--momentun", "0.9"], "--momentun"),
        (["trian"], "trian"),
        (["export", "nowhere"], "which format? Give --format sparse, --format onnx or --format state-dict"),
        (["size", "."], ". is a folder; give a file of weights, such as model.sparse.safetensors"),
        (["train", "digits", "--resume", "x"], "--resume goes on with the run as it was configured"),
        (["train", "digit"], "unknown recipe: digit (did you mean digits? there is: "),
        *((verb, "no such run folder: nowhere") for verb in verbs_of("nowhere")),
        *((verb, "not a run folder (no config.json): .") for verb in verbs_of(".")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, args, message):
    monkeypatch.chdir(tmp_path)
    code, line = refused(capsys, monkeypatch, *args)
    assert code == 2
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_used_are_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, line = refused(capsys, monkeypatch, "train", "digits", "--out", tmp_path / "file" / "run")
    assert code == 2
    assert f"{tmp_path}/file/run: Not a directory" in line
    code, line = refused(capsys, monkeypatch, "train", "digits", "--out", tmp_path / "file")
    assert (code, line) == (2, f"dirprune: {tmp_path}/file exists; give another --out\n")
    code, line = refused(capsys, monkeypatch, "train", "digits", "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path} exists; give another --out, or go on with --resume {tmp_path}" in line


def test_a_sweep_in_place_of_a_run_is_named_with_one_of_its_runs(capsys, monkeypatch, tmp_path):
    (tmp_path / "sweep.json").write_text('{"recipe": "digits", "runs": ["c0.1"]}')
    for verb in ("compact", "report"):
        code, line = refused(capsys, monkeypatch, verb, tmp_path)
        assert code == 2
        assert f"{tmp_path} is a sweep of several runs; give one of them: {tmp_path}/c0.1" in line


def test_a_second_study_of_the_same_folder_is_refused(capsys, monkeypatch, tmp_path):
    with locked(tmp_path, STUDY_LOCK):
        code, line = refused(capsys, monkeypatch, "theory", "--out", tmp_path)
    assert code == 2
    assert f"{tmp_path}: in use by process {os.getpid()} on " in line


def test_a_corrupt_run_is_one_line(capsys, monkeypatch, tmp_path):
    assert run("train", "digits", "--epochs", 1, "--out", "run", "-q", cwd=tmp_path).returncode == 0
    folder = tmp_path / "run"
    (folder / "summary.json").unlink()  # not finished: else there is nothing to read it for
    (folder / "sgd" / "checkpoint.pt").write_bytes(b"PK broken")
    code, line = refused(capsys, monkeypatch, "train", "--resume", folder, "-q")
    assert code == 2
    assert f"{folder}/sgd/checkpoint.pt is not a readable checkpoint" in line
    (folder / "config.json").write_text("{")
    assert refused(capsys, monkeypatch, "train", "--resume", folder)[0] == 2


def test_divergence_is_one_line_and_exit_code_1(tmp_path):
    done = run("train", "digits", "--lr", 1e30, "--epochs", 2, "--out", "run", "-q", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "training diverged, the loss is nan at step " in done.stderr
    assert "is not finite" in done.stderr


@pytest.mark.parametrize("verb", ["train", "recipes", "report"])
def test_help_lists_the_options(verb, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dirprune", verb, "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    text = capsys.readouterr().out
    assert re.search(rf"Usage: .*dirprune {verb}", text)  # "python -m pytest" comes first where that runs the tests
    expected = {
        "train": [
            "--seed",
            "--epochs",
            "--lr",
            "--c ",
            "--mu",
            "--batch-size",
            "--device",
            "--out",
            "--resume",
            "--quiet",
        ],
        "recipes": ["RECIPE"],
        "report": ["RUN"],
    }
    assert all(option in text for option in expected[verb])


def test_every_hyperparameter_of_a_recipe_has_a_flag():
    flags = inspect.signature(train).parameters
    assert digits_recipe().hyperparameters().keys() <= flags.keys()


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("3", [10])])
def test_a_process_of_torchrun_waits_for_the_first_and_then_prints_its_own_error(capsys, monkeypatch, rank, waits):
    waited = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(sys, "argv", ["dirprune", "recipes", "nothing"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code, waited) == (2, waits)
    assert capsys.readouterr().err.startswith("dirprune: unknown recipe: nothing")


@pytest.mark.parametrize(
    ("recipe", "source"),
    [
        ("wrn28x10-cifar100", "$DIRPRUNE_DATA, or else the original archive, downloaded once"),
        ("resnet50-imagenet-modern", "$DIRPRUNE_DATA; nothing is downloaded"),
        ("digits", "always the same; nothing is downloaded"),
    ],
)
def test_recipes_say_where_data_are_taken_from(capsys, monkeypatch, recipe, source):
    monkeypatch.delenv("DIRPRUNE_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["dirprune", "recipes", recipe])
    with pytest.raises(SystemExit):
        cli.main()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("data =")] == [f"data = {source}"]


def test_recipes_lists_and_shows(capsys, monkeypatch):
    for args, text in ((["recipes"], "digits: "), (["recipes", "digits"], "c = 0.01\n")):
        monkeypatch.setattr(sys, "argv", ["dirprune", *args])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        assert text in capsys.readouterr().out
