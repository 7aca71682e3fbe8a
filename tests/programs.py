"""Programs of Python that start in a moment: forks of a server that has imported torch and what the command uses.

A new interpreter needs seconds for these imports. `Program` takes the arguments of `python` and is used like
`subprocess.Popen`; it is a process of its own, in a group of its own. `TORCHRUN` is torchrun with two such workers.
"""

import logging
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import replace
from pathlib import Path

PRELOAD = ["torch._dynamo", "torch.distributed.run", "torch.distributed.tensor", "torch.distributed.fsdp"]
PRELOAD += ["sklearn.datasets", "sklearn.model_selection", "matplotlib.pyplot", "matplotlib.backends.backend_svg"]
PRELOAD += [f"directional_pruning.{name}" for name in ("cli.train", "cli.studies", "runs", "report", "studies")]
CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
CONTEXT.set_forkserver_preload(PRELOAD)
LONGEST = 300  # seconds

TORCHRUN = ["-m", "programs", "--standalone", "--nproc-per-node", "2"]


class Program:
    """``python *args`` in a folder."""

    def __init__(self, *args, cwd, **environment):
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._outputs = [folder / name for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        arguments = (list(map(str, args)), str(cwd), values, *map(str, self._outputs))
        self._process = CONTEXT.Process(target=_start, args=arguments)
        self._process.start()
        self.pid: int = self._process.pid or 0
        self.terminate, self.kill = self._process.terminate, self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=LONGEST):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout)
        return self.returncode

    def communicate(self, timeout=LONGEST):
        self.wait(timeout)
        return tuple(path.read_text() for path in self._outputs)


def run(*args, cwd, **environment):
    """The exit code of a program and what it printed, to standard output and to standard error."""
    program = Program(*args, cwd=cwd, **environment)
    out, err = program.communicate()
    return program.returncode, out, err


def run_together(*commands, cwd, seconds):
    """What each of several programs printed; where one fails, the others have five seconds to say why."""
    programs, deadline = [Program(*args, cwd=cwd) for args in commands], time.monotonic() + seconds
    while any(program.poll() is None for program in programs) and time.monotonic() < deadline:
        if any(program.poll() for program in programs):
            deadline = min(deadline, time.monotonic() + 5)
        time.sleep(0.05)
    for program in programs:
        program.kill()
    return ["".join(program.communicate()) for program in programs]


def _start(args, cwd, environment, out, err):
    os.setsid()
    signal.alarm(LONGEST)  # a test that failed does not wait for it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    _run(args)


def _run(args):
    """What ``python *args`` does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if args[0] == "-m":
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        sys.argv = ["-c", *args[2:]]
        exec(args[1], {"__name__": "__main__"})
    else:
        sys.argv = args
        runpy.run_path(args[0], run_name="__main__")


def _torchrun():
    """The command torchrun; its workers are forks instead of new interpreters."""
    from torch.distributed import run as torchrun

    launch = torchrun.elastic_launch
    # Of forks, and not of new interpreters, it logs the traceback of how it noticed that one ended.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)

    def forking(config, entrypoint):
        return launch(replace(config, start_method="fork"), _worker)

    vars(torchrun)["elastic_launch"] = forking
    torchrun.main(sys.argv[1:])


def _worker(unbuffered, *args):
    _run(list(args))


if __name__ == "__main__":
    _torchrun()
