"""The program of the measurements on a GPU: its steps on the CPU, and what it does with time, failures and signals."""

import argparse
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import gpu
import psutil
import pytest
from programs import Program

from directional_pruning import cli

# A training that notes each start, says at SIGTERM that it stopped, and ends at its second start.
TRAINING = """
import signal, sys, time
from pathlib import Path
run = Path(sys.argv[1])
def stop(*_):
    print("stopped")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
again = run.exists()
run.mkdir(exist_ok=True)
(run / "sweep.json").write_text("{}")
print("goes on" if again else "starts", flush=True)
time.sleep(0 if again else 60)
"""


def python(code, *args):
    return (sys.executable, "-c", code, *map(str, args))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the program in this process; returns its exit code, its records and what it printed."""
    monkeypatch.setattr(gpu, "GRACE", 1)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*args, table=None):
        if table is not None:
            monkeypatch.setattr(gpu, "steps", lambda **_: table)
        places = ["--tiny", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["gpu.py", *places, *map(str, args)])
        with pytest.raises(SystemExit) as end:
            gpu.main()
        records = json.loads((tmp_path / "results" / "state.json").read_text())
        return end.value.code, records, capsys.readouterr().out

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
def test_the_steps_run_on_the_cpu_and_what_is_done_is_not_run_again(tmp_path, call, monkeypatch):
    started = []

    def fork(command, seconds, log):
        started.append(command)
        program = Program(*command[1:], cwd=gpu.ROOT)
        log.write_text("".join(program.communicate()))
        return program.returncode, False

    monkeypatch.setattr(gpu, "run_command", fork)
    only = ("--only", "step-tiny-bfloat16", "vgg16")  # of the others, only the arguments are checked
    code, records, _ = call(*only, "--out", tmp_path / "out")
    assert (code, {record["status"] for record in records.values()}) == (0, {"done"}), records
    assert len(started) == len(records) == 2
    for record in records.values():
        assert {"gpu", "machine", "versions", "commit", "date", "command", "code", "seconds", "output"} <= set(record)
        assert {"python", "torch"} <= set(record["versions"])
    epochs = [json.loads(line) for line in (tmp_path / "out" / "vgg16.jsonl").read_text().splitlines()]
    assert [line["network"] for line in epochs] == ["grda", "sgd", "grda"]  # the dense baseline once
    assert json.loads((tmp_path / "out" / "state.json").read_text()) == records

    assert call(*only)[:2] == (0, records)
    assert len(started) == 2
    assert call(*only, "--again", "step")[0] == 0
    assert started[2:] == started[:1]


class AcceptedError(Exception):
    """The arguments were accepted."""


@pytest.mark.parametrize("tiny", [False, True])
def test_the_programs_take_the_arguments_that_they_get(tmp_path, monkeypatch, tiny):
    def parse(self, *args, **options):
        original(self, *args, **options)
        raise AcceptedError

    def start(recipe, values, several, *, resume, **options):
        started.append((recipe, several.get("mu"), resume))
        sys.exit(2)

    original, started = argparse.ArgumentParser.parse_args, []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(import_module("directional_pruning.cli.train"), "start_training", start)
    table = gpu.steps(tiny=tiny, data=tmp_path, runs=tmp_path)
    for step in table:
        assert step.resumes or 0 <= step.seconds < 60 * 9
        monkeypatch.setattr(sys, "argv", list(step.command[1:]))
        if step.command[1].endswith(".py"):
            with pytest.raises(AcceptedError):
                runpy.run_path(str(gpu.ROOT / step.command[1]), run_name="__main__")
    (training,) = (step for step in table if step.run is not None)
    for command in (training.command, training.resume):
        monkeypatch.setattr(sys, "argv", ["dirprune", *command[3:]])
        with pytest.raises(SystemExit):
            cli.main()
    settings = [0.51, 0.6] if tiny else [0.51, 0.6, 0.7]
    assert started == [("digits" if tiny else "vgg16-cifar10", settings, None), (None, None, training.run)]


def test_a_training_is_stopped_by_sigterm_when_time_is_over_and_goes_on_at_the_next_call(tmp_path, call):
    run = tmp_path / "run"
    table = [gpu.Step("first", python(TRAINING, run), 0, resumes=True, run=run, resume=python(TRAINING, run, "again"))]
    code, records, _ = call("--minutes", 0.08, table=table)
    assert (code, records["first"]["status"], records["first"]["code"]) == (0, "to go on", 143)
    assert records["first"]["output"] == ["starts", "stopped"]
    seconds = records["first"]["seconds"]
    code, records, _ = call(table=table)
    assert (code, records["first"]["status"], records["first"]["output"]) == (0, "done", ["goes on"])
    assert records["first"]["seconds"] >= seconds > 3


def test_a_program_that_does_not_end_is_killed_with_all_that_it_started(tmp_path, call):
    code = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    table = [gpu.Step("stubborn", python(code), 0), gpu.Step("long", python(""), 100)]
    began = time.monotonic()
    code, records, out = call("--minutes", 0.06, table=table)
    assert time.monotonic() - began < 30
    assert (code, records["stubborn"]["status"], records["stubborn"]["code"]) == (1, "failed", -signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child := int(records["stubborn"]["output"][0])):
        if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break  # nobody waits for it where these tests run
        assert time.monotonic() < deadline
    assert "long: not started, " in out
    assert "long" not in records


def test_a_failure_stops_no_other_step_and_is_tried_again_last(call):
    table = [
        gpu.Step("broken", python("import sys; print('reason'); sys.exit(3)"), 0),
        gpu.Step("poor", python(""), 0, needs=("torch", "no_such_package")),
        gpu.Step("silent", python("print('0 tests')"), 0, shows=" passed"),
        gpu.Step("good", python("print('fine')"), 0),
    ]
    code, records, _ = call(table=table)
    assert code == 1
    assert [(records[step.name]["status"], records[step.name]["output"]) for step in table] == [
        ("failed", ["reason"]),
        ("failed", ["missing on this machine: no_such_package"]),
        ("failed", ["0 tests"]),
        ("done", ["fine"]),
    ]
    table[0] = gpu.Step("broken", python("print('mended')"), 0)
    table.append(gpu.Step("new", python(""), 0))
    code, records, out = call("--only", "broken", "new", table=table)
    assert code == 0
    assert out.index("new: done") < out.index("broken: done")


def test_a_signal_to_the_program_ends_its_step_and_leaves_a_record(tmp_path, call):
    run = tmp_path / "run"
    killer = f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM)\n"
    table = [gpu.Step("first", python(TRAINING.replace("time.sleep(", killer + "time.sleep("), run), 0, resumes=True)]
    code, records, _ = call(table=table)
    assert (code, records["first"]["status"], records["first"]["output"][-1]) == (143, "to go on", "stopped")


def test_without_a_gpu_and_without_tiny_it_says_so():
    environment = os.environ | {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(gpu.__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nvidia-smi names no GPU here" in done.stderr
