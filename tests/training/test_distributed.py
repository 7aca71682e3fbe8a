"""A recipe under torchrun: two processes give the one-process result, and a killed one costs nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from PIL import Image
from programs import TORCHRUN, Program
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

NEW_INTERPRETERS = [sys.executable, "-m", "torch.distributed.run", *TORCHRUN[2:]]  # the command torchrun itself
SINGLE_PROCESS = []
PROGRAM = ["-m", "directional_pruning", "train"]


def start(launcher, *args, cwd):
    command = [*launcher, *PROGRAM, *map(str, args)]
    if launcher != NEW_INTERPRETERS:
        return Program(*command, cwd=cwd)
    # A warning of torchrun's about threads is not for these tests.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(launcher, *args, cwd):
    process = start(launcher, *args, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    code, out, err = run(SINGLE_PROCESS, "chars", "--epochs", 1, "--out", "run", "-q", cwd=folder)
    assert (code, out) == (0, "run\n"), err
    return folder / "run"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_give_the_one_process_result(tmp_path, single, parallel):
    code, out, err = run(TORCHRUN, "chars", "--epochs", 1, "--out", "run", "-q", "--parallel", parallel, cwd=tmp_path)
    assert (code, out) == (0, "run\n"), err  # one of them prints
    for record, expected in zip(metrics(tmp_path / "run"), metrics(single), strict=True):
        assert record.pop("network") == expected.pop("network")
        assert record == pytest.approx(expected, rel=2e-3, abs=1e-5)
    for network in ("sgd", "grda"):
        one = load_file(single / network / "model.safetensors")
        two = load_file(tmp_path / "run" / network / "model.safetensors")
        assert one.keys() == two.keys()
        for name, weights in one.items():
            assert two[name].dtype is weights.dtype
            # AdamW makes a step of every rounding: of some 50, each of at most 4e-3.
            assert (two[name] - weights).abs().mean() < 1e-4, name
        zeros = [torch.cat([w.flatten() == 0 for w in weights.values()]) for weights in (one, two)]
        assert (zeros[0] != zeros[1]).float().mean() < 1e-3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["grda"]["sparsity_all"] > 0.01
    # What two processes wrote, one reads: all of it is there already.
    code, out, err = run(SINGLE_PROCESS, "--resume", "run", "-q", cwd=tmp_path)
    assert (code, out) == (0, "run\n"), err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["grda"] == pytest.approx(summary["grda"])


def test_sharded_convolutions_train_and_are_saved_whole(tmp_path):
    """VGG16 on a few images: more processes than the last batch of an evaluation has images for."""
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 2), ("test", 1)):
        for label in range(10):
            place = tmp_path / "data" / name / str(label)
            place.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    flags = ("--data", "data", "--epochs", 1, "--batch-size", 6, "--out", "run", "-q", "--parallel", "fsdp")
    code, out, err = run(TORCHRUN, "vgg16-cifar10", *flags, cwd=tmp_path)
    assert (code, out) == (0, "run\n"), err
    weights = load_file(tmp_path / "run" / "grda" / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == 15_245_130
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_a_killed_worker_is_started_again_and_the_end_is_bit_identical(tmp_path):
    flags = ("digits", "--epochs", 12, "--batch-size", 128, "-q", "--out")
    code, _, err = run(TORCHRUN, *flags, "whole", cwd=tmp_path)
    assert code == 0, err
    launcher = [*TORCHRUN, "--max-restarts", "1"]
    process = start(launcher, *flags, "killed", cwd=tmp_path)
    log = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    # In the sparse network, past its first checkpoint (epoch 5) and beyond it.
    while not (log.exists() and log.read_text().count('"network": "grda"') >= 6):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim = psutil.Process(process.pid).children()[-1]
    os.kill(victim.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out == "killed\n"
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for network in ("sgd", "grda"):
        file = f"{network}/model.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_sigterm_to_torchrun_ends_all_processes_after_a_checkpoint_of_the_same_step(tmp_path):
    process = start(NEW_INTERPRETERS, "digits", "--epochs", 60, "-q", "--out", "run", cwd=tmp_path)
    log = tmp_path / "run" / "sgd" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not log.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert err.count("dirprune: ") == 1
    assert "dirprune: stopped; go on with: dirprune train --resume run\n" in err
    progress = torch.load(tmp_path / "run" / "sgd" / "checkpoint.pt", weights_only=True)["progress"]
    assert len(progress["records"]) >= len(log.read_text().splitlines())
    assert len(progress["records"]) < 60


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("digits", "--mu", ".6", ".7"), "under torchrun all processes train one run together"),
        (("digits", "--batch-size", "63", "--epochs", "1"), "invalid batch_size: 63 (must be a multiple of the 2"),
        (("nothing",), "unknown recipe: nothing"),
        (("vgg16-cifar10", "--data", "gone"), "{cwd}/gone does not exist"),
        (("--resume", "gone"), "no such run folder: gone"),
    ],
)
def test_what_processes_cannot_do_is_printed_once(tmp_path, args, message):
    code, out, err = run(TORCHRUN, *args, cwd=tmp_path)
    assert code != 0
    assert f"dirprune: {message.format(cwd=tmp_path)}" in err
    assert err.count("dirprune: ") == 1
    assert err.count("Traceback (most recent call last)") == 1  # of torchrun
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_is_reported_by_the_first_and_ends_with_its_code(tmp_path):
    flags = ("digits", "--epochs", 2, "--lr", 1e30, "--out", "run", "-q")
    code, _, err = run(TORCHRUN, *flags, cwd=tmp_path)
    assert code == 1
    assert err.count("dirprune: training diverged, ") == 1
    # Another process that failed would have the first one ended while it writes.
    assert re.search(r"Root Cause.*\n.*\n.*\n.*\n *rank +: 0 .*\n *exitcode +: 1 ", err)
    assert (tmp_path / "run" / "report.html").exists()
