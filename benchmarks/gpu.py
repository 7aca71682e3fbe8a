"""Run everything that needs a GPU, the most valuable first; what a call has no time for is left to the next call.

    python benchmarks/gpu.py [--minutes 9.5] [--list] [--only step cuda] [--again vgg16] [--data FOLDER] [--out FOLDER]

A step is one command. A step that is done is not run again, a failed one stops no other and is tried again last. The
training is stopped by SIGTERM when the time is over, and goes on from its checkpoint at the next call. A benchmark is
started only where its expected seconds are left.

`state.json` in `benchmarks/results/gpu/` has a record of each step: status, exit code, output, GPU, machine, versions,
date and commit. `vgg16.jsonl` beside it has the epochs of the trainings so far, whose checkpoints are in `runs/gpu/`.
`--out` names a folder for a copy of the small files, `--data` that of CIFAR-10. `--tiny` runs the same steps on the
CPU in seconds, to try this program.

The project is installed with pip where it cannot be imported. This needs no network, but torch and the packages of the
extras must be there: a step says which of them it lacks.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "src"))  # where the project is not installed

from directional_pruning.files import replacing, write_json  # noqa: E402
from directional_pruning.run_folder import METRICS, SWEEP  # noqa: E402

GRACE = 20  # seconds for a checkpoint after SIGTERM
LINES, COLUMNS = 120, 300  # of a step's output that its record keeps
PACKAGES = ("torch", "triton", "torchvision", "torchao")
TRAINING = ("torch", "numpy", "safetensors", "zstandard", "filelock", "typer", "rich", "matplotlib")


@dataclass(frozen=True)
class Step:
    """A command, and what it takes."""

    name: str
    command: tuple[str, ...]
    seconds: int
    """Expected on a GPU of a data centre."""
    needs: tuple[str, ...] = ("torch",)
    resumes: bool = False
    """Whether it can be stopped at any moment: it goes on from there at the next call."""
    run: Path | None = None
    """Folder of a training, which goes on with the command ``resume`` instead."""
    resume: tuple[str, ...] = ()
    shows: str = ""
    """A text without which the output is a failure."""

    @property
    def next_command(self) -> tuple[str, ...]:
        return self.resume if self.run is not None and (self.run / SWEEP).exists() else self.command


def benchmark(name: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, f"benchmarks/{name}.py", *args)


def steps(*, tiny: bool, data: Path | None, runs: Path) -> list[Step]:
    """All steps, in the order of their value."""
    device = ("--device", "cpu" if tiny else "cuda")
    tests = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_cuda.py"))]
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    table = [Step("cuda", pytest, 120, ("torch", "pytest"), shows="" if tiny else " passed")]

    networks = {"tiny": 0} if tiny else {"resnet50": 200, "gpt2": 240, "tiny": 200}
    options = ("--rounds", "1") if tiny else ("--compile",)
    for network, seconds in networks.items():
        for dtype in ("float32", "bfloat16"):
            command = benchmark("optimizer_step", "--network", network, "--dtype", dtype, *device, *options)
            table.append(Step(f"step-{network}-{dtype}", command, seconds))

    options = ("--model", "vgg16", "--size", "32", "--batch", "2", "--rounds", "1") if tiny else ()
    needs = ("torch",) if tiny else ("torch", "torchvision")
    table.append(Step("training-step", benchmark("training_step", *device, *options), 0 if tiny else 120, needs))

    options = ("--images", "8", "--rounds", "1") if tiny else ()
    epochs = {"vgg16": 60} if tiny else {"vgg16": 120, "wrn28x10": 360}
    for network, seconds in epochs.items():
        command = benchmark("training_epoch", "--recipe", f"{network}-cifar10", *device, *options)
        table.append(Step(f"epoch-{network}", command, 0 if tiny else seconds))

    folder = runs / "vgg16"
    train = (sys.executable, "-m", "directional_pruning", "train")
    recipe = ("digits", "--epochs", "1") if tiny else ("vgg16-cifar10", "--paper-protocol")
    more = (*device, "--jobs", "1" if tiny else "4", "--quiet")
    start = (
        *train,
        *recipe,
        *(("--data", str(data)) if data and not tiny else ()),
        "--mu",
        "0.51",
        "0.6",
        *(() if tiny else ("0.7",)),
    )
    resume = (*train, "--resume", str(folder), *(("--data", str(data)) if data and not tiny else ()), *more)
    start = (*start, "--out", str(folder), *more)
    table.append(Step("vgg16", start, 0 if tiny else 1800, TRAINING, True, folder, resume))

    if not tiny:
        options = ("--recipe", "vgg16-cifar10", "--compile")
        table.append(Step("epoch-vgg16-compiled", benchmark("training_epoch", *device, *options), 240))
        frontier = ROOT / "benchmarks" / "frontier.py"
        if "--device" in frontier.read_text():  # until then it trains on the CPU alone
            options = ("final", "--task", "cifar32", *device, *(("--data", str(data)) if data else ()))
            table.append(Step("frontier", benchmark("frontier", *options), 3600, resumes=True))
    return table


def last_lines(path: Path) -> list[str]:
    lines = path.read_text(errors="replace").splitlines()
    return [line[:COLUMNS] for line in lines[-LINES:]]


def run_command(command: tuple[str, ...], seconds: float, log: Path) -> tuple[int, bool]:
    """Run in a group of processes of its own; the exit code, and whether the time was over before the end."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    over = False
    try:
        try:
            process.wait(max(seconds, 0))
        except BaseException as reason:
            # To the first process alone: it stops those that it started, after their checkpoints.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            if not isinstance(reason, subprocess.TimeoutExpired):
                raise
            over = True
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, over


def answer(*command: str) -> str:
    """What a command prints, or "" where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def evidence() -> dict[str, object]:
    gpu = answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    commit = answer("git", "rev-parse", "HEAD") or "not recorded"
    return {
        "gpu": gpu or "none",
        "machine": f"{processor}, {os.cpu_count()} cores",
        "versions": versions,
        "commit": commit + (", changed" if answer("git", "status", "--porcelain", "-uno") else ""),
    }


class State:
    """The records of all steps, in a file that is whole at any time, with a copy in ``out``."""

    def __init__(self, folder: Path, out: Path | None):
        self.folder, self.out = folder, out
        self.path = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.records: dict[str, dict] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def status(self, step: Step) -> str:
        return self.records.get(step.name, {}).get("status", "not run")

    def save(self) -> None:
        write_json(self.path, self.records)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("*.json*"):
                with replacing(self.out / path.name) as beside:
                    shutil.copyfile(path, beside)


def collect_epochs(run: Path, path: Path) -> None:
    """Write the first ten epochs, every tenth and the last of each network of a sweep, one a line."""
    lines = []
    for metrics in sorted(run.glob(f"*/*/{METRICS}")):
        if not metrics.parent.is_symlink():  # a dense baseline that several runs share
            records = [json.loads(line) for line in metrics.read_text().splitlines()]
            few = [r for i, r in enumerate(records, 1) if i <= 10 or i % 10 == 0 or i == len(records)]
            lines += [json.dumps({"run": metrics.parts[-3], **record}) for record in few]
    with replacing(path) as beside:
        beside.write_text("".join(f"{line}\n" for line in lines))


def import_problem(step: Step) -> str:
    missing = [name for name in step.needs if importlib.util.find_spec(name) is None]
    return f"missing on this machine: {', '.join(missing)}" if missing else ""


def install() -> None:
    """Install the project where it is not; if that fails, the steps import it from its folder."""
    with suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("directional-pruning")
        return
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"pip could not install the project: {reason}; it is used without its kernel for the CPU", flush=True)


def execute(step: Step, state: State, runs: Path, seconds: float) -> str:
    """Run a step in the time that is left, and write its record; returns the status."""
    stopped = "to go on" if step.resumes else "failed"
    resumed, command, log = step.next_command == step.resume, step.next_command, runs / f"{step.name}.txt"
    record: dict[str, Any] = {"status": stopped, "command": " ".join(("python", *command[1:])), "code": None}
    record |= {"seconds": 0.0, "date": str(datetime.date.today()), **evidence()}
    earlier = state.records.get(step.name, {}).get("seconds", 0.0) if resumed else 0.0
    if problem := import_problem(step):
        state.records[step.name] = record | {"status": "failed", "output": [problem]}
        state.save()
        return "failed"
    if step.run is not None and not resumed:
        shutil.rmtree(step.run, ignore_errors=True)  # of a process that was killed while it made the folder
    state.records[step.name] = record | {"output": ["killed"]}  # until it ends otherwise
    state.save()
    began = time.monotonic()
    try:
        code, over = run_command(command, seconds, log)
        done = code == 0 and step.shows in log.read_text(errors="replace")
        record |= {"code": code, "status": "done" if done else stopped if over else "failed"}
        return record["status"]
    finally:
        record |= {"seconds": round(earlier + time.monotonic() - began, 1), "output": last_lines(log)}
        if step.run is not None and step.run.exists():
            collect_epochs(step.run, state.folder / f"{step.name}.jsonl")
        state.records[step.name] = record
        state.save()


def show(table: list[Step], state: State) -> None:
    print(f"\n{'step':24}{'status':12}{'took s':>9}{'expected s':>12}  last line of its output")
    for step in table:
        record = state.records.get(step.name, {})
        last = (record.get("output") or [""])[-1][:80]
        print(f"{step.name:24}{state.status(step):12}{record.get('seconds', 0):>9}{step.seconds:>12}  {last}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="end before so many minutes have passed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="steps, or beginnings of their names")
    parser.add_argument("--again", nargs="+", metavar="NAME", default=[], help="run these anew")
    parser.add_argument("--list", action="store_true", help="show the steps and run none")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, help="a folder for a copy of the results")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in seconds; results and runs in runs/gpu-tiny")
    parser.add_argument("--results", type=Path, help="[default: benchmarks/results/gpu]")
    parser.add_argument("--runs", type=Path, help="folder of trainings and whole outputs [default: runs/gpu]")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes - GRACE

    runs = (args.runs or ROOT / "runs" / ("gpu-tiny" if args.tiny else "gpu")).resolve()
    results = args.results or (runs / "results" if args.tiny else ROOT / "benchmarks" / "results" / "gpu")
    table = steps(tiny=args.tiny, data=args.data and args.data.resolve(), runs=runs)
    unknown = [name for name in [*(args.only or []), *args.again] if not any(s.name.startswith(name) for s in table)]
    if unknown:
        parser.error(f"unknown step: {unknown[0]} (there is: {', '.join(step.name for step in table)})")
    chosen = [step for step in table if not args.only or step.name.startswith(tuple(args.only))]
    state = State(results, args.out)
    if args.list:
        show(chosen, state)
        return
    if not args.tiny and not answer("nvidia-smi", "-L"):
        parser.error("nvidia-smi names no GPU here; --tiny tries the steps on the CPU")
    runs.mkdir(parents=True, exist_ok=True)
    for step in table:
        if step.name.startswith(tuple(args.again)) and args.again:
            state.records.pop(step.name, None)
            if step.run is not None:
                shutil.rmtree(step.run, ignore_errors=True)
    install()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    failed = False
    for step in sorted(chosen, key=lambda step: state.status(step) == "failed"):
        left = end - time.monotonic()
        if state.status(step) == "done":
            continue
        if left < (min(step.seconds, 60) if step.resumes else step.seconds):
            print(f"{step.name}: not started, {left:.0f} s are left", flush=True)
            continue
        print(f"{step.name}: {' '.join(step.next_command)}", flush=True)
        try:
            status = execute(step, state, runs, left)
        except KeyboardInterrupt:
            print(f"{step.name}: stopped by a signal", flush=True)
            show(chosen, state)
            sys.exit(143)
        print(f"{step.name}: {status}, {state.records[step.name]['seconds']} s", flush=True)
        if status == "failed":
            failed = True
            print("\n".join(f"    {line}" for line in state.records[step.name]["output"][-12:]), flush=True)
    show(chosen, state)
    sys.exit(failed)


if __name__ == "__main__":
    main()
