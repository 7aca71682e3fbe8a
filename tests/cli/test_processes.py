"""The command and what happens around its process: signals, closed pipes, a second process, no terminal."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from programs import Program

from directional_pruning.cli.progress import Screen, training_progress
from directional_pruning.cli.signals import deferred_signals, exit_code, handle_signals
from directional_pruning.files import locked
from directional_pruning.run_folder import LOCK
from directional_pruning.runs import train_run

DIRPRUNE = ["-m", "directional_pruning"]
FLAGS = ["train", "digits", "--epochs", "60", "--out", "run"]
RECORD = {"train_loss": 0.12344, "validation_accuracy": 0.972, "sparsity_all": 0.851, "seconds": 3.0}


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_second_process_is_refused_and_sigterm_checkpoints_every_network_of_jobs(tmp_path):
    process = Program(*DIRPRUNE, *FLAGS, "-q", "-j", "2", cwd=tmp_path)
    for network in ("sgd", "grda"):
        wait_for(tmp_path / "run" / network / "metrics.jsonl", process)
    other = Program(*DIRPRUNE, "train", "--resume", "run", "-q", cwd=tmp_path)
    assert other.communicate(timeout=200) == (
        "",
        f"dirprune: run: in use by process {process.pid} on {os.uname().nodename}; wait until it ends, or stop it\n",
    )
    assert other.returncode == 2
    process.terminate()
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (143, "")
    assert err == "dirprune: stopped; go on with: dirprune train --resume run\n"
    for network in ("sgd", "grda"):
        # The checkpoint is of the last step, so it holds every epoch in the metrics.
        assert (tmp_path / "run" / network / "checkpoint.pt").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_in_use_is_not_trained(tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", LOCK), pytest.raises(BlockingIOError, match="in use by process"):
        train_run(tmp_path / "run")


@pytest.mark.slow
def test_a_closed_pipe_ends_training_after_a_checkpoint(tmp_path):
    pipe, command = subprocess.PIPE, [sys.executable, *DIRPRUNE, *FLAGS]
    process: Any = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    with process.stdout as output:
        assert output.readline().startswith("dense baseline: epoch 1 of 60, loss ")
    with process.stderr as errors:
        err = errors.read()
    assert process.wait(timeout=200) == 2
    assert err == "dirprune: standard output: Broken pipe; go on with: dirprune train --resume run\n"
    assert (tmp_path / "run" / "sgd" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("output", "reason"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
def test_an_output_that_cannot_be_written_is_one_line(output, reason):
    if output == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = f"{sys.executable} -m directional_pruning --version {output}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"dirprune: standard output: {reason}\n")


def test_without_a_terminal_each_epoch_is_a_line(tmp_path):
    for quiet in (False, True):
        file = io.StringIO()
        with training_progress(Screen(file=file, quiet=quiet), [tmp_path], 40) as progress:
            progress(str(tmp_path / "grda"), 3, 40, RECORD)
            progress(str(tmp_path / "sgd"), 40, 40, RECORD)
        lines = [
            "sparse: epoch 3 of 40, loss 0.1234, accuracy 97.2 %, zeros 85.1 %, 37 s left",
            "dense baseline: epoch 40 of 40, loss 0.1234, accuracy 97.2 %, zeros 85.1 %",
        ]
        assert file.getvalue().splitlines() == ([] if quiet else lines)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks_training_to_stop_and_the_second_ends_it(sign, code):
    before = signal.getsignal(sign)
    with handle_signals():
        with deferred_signals() as stopped:
            assert not stopped()
            signal.raise_signal(sign)
            assert stopped()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(sign)
        assert exit_code() == code
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(sign)
    assert signal.getsignal(sign) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with handle_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_while_the_command_is_imported_prints_no_traceback(tmp_path):
    code = """
import builtins, signal
from directional_pruning.__main__ import main
original = builtins.__import__
def interrupted(name, *args, **options):
    if name == "typer":
        signal.raise_signal(signal.SIGINT)
    return original(name, *args, **options)
builtins.__import__ = interrupted
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
