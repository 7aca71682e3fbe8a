"""Fill the disk, kill and damage files at random: one line names the file, nothing is lost, resumed bits are the same.

    python benchmarks/faults.py --write benchmarks/results/faults.json

Every command runs in a fork of this process, which has imported torch, on a small digits run and one thread.

- Full disk: every file may have so many bytes (RLIMIT_FSIZE, from 0 to beyond the largest file), or the n-th flush
  to disk fails. The command must end with code 2 and one line that names a file, leave no partial file and no changed
  old one. Then the run is resumed.
- Kills: SIGKILL or SIGTERM at a random moment of the training. Then the run is resumed.
- Damage: a file is cut, emptied, has flipped bits, is garbage, another kind of file, or nested JSON. The command must
  end with code 2 and one line that names the file, and change no file. Or it ends well: then the networks are the
  same, except where a flipped bit is still valid text, or a value in a file without a checksum.

A resumed run must end with the same bytes of both networks and of the sparse file as one that was never disturbed.
"""

import argparse
import datetime
import errno
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import chdir, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import directional_pruning.report
import directional_pruning.studies  # so that a fork need not
from directional_pruning import cli
from directional_pruning.runs import RECIPES, digits_recipe

CODES = Counter()  # how the disturbed commands ended
TRAIN = ["train", "digits", "--epochs", "6", "--batch-size", "60", "-q", "--device", "cpu"]
CURVE = ["curve", "--epochs", "1", "--points", "3"]
NETWORKS = ["sgd/model.safetensors", "grda/model.safetensors", "model.sparse.safetensors"]
STUDIES = ["curve.npz", "curve/points.json", "curve/checkpoint.pt", "curve/settings.json"]


def use_few_images():
    """Make the recipe digits train on 120 images and test on as many."""
    recipe = digits_recipe()
    splits = recipe.splits(torch.device("cpu"))
    parts: Any = (splits.train, splits.validation, splits.test)
    few = type(splits)(*(replace(part, images=part.images[:120], labels=part.labels[:120]) for part in parts))
    RECIPES["digits"] = lambda: replace(recipe, dataset=replace(recipe.dataset, load=lambda device, recipe: few))


def import_all(folder):
    """Run the verbs once in this process, so that a fork need not import what they use."""
    with chdir(folder), redirect_stdout(io.StringIO()):
        for verb in ([*TRAIN, "--out", "first"], ["compare", "first"], [*CURVE, "first"]):
            sys.argv = ["dirprune", *verb]
            with suppress(SystemExit):
                cli.main()
    shutil.rmtree(folder / "first")


class Command:
    """A run of the command in a forked process."""

    def __init__(self, folder, *args, prepare=lambda: None):
        read, write = os.pipe()
        self.began = time.monotonic()
        self.number = os.fork()
        if self.number == 0:
            code = 99
            try:
                os.chdir(folder)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(write, 2)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
                if args[0] == "train":
                    # A page takes longer than this training; the verb report has its own faults.
                    vars(directional_pruning.report)["write_report"] = lambda run: run
                sys.argv = ["dirprune", *map(str, args)]
                prepare()
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        self.pipe = read

    def wait(self):
        """The exit code, that of a shell, and the error message."""
        with open(self.pipe, errors="replace") as file:
            text = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        self.seconds = time.monotonic() - self.began
        return (code if code >= 0 else 128 - code), text


def at_most(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fail_flush(number):
    """Let the n-th flush of a file to disk fail, as it does where the last block finds no room."""
    flush, left = os.fsync, iter(range(number))

    def fsync(file):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    vars(os)["fsync"] = fsync


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_networks(a, b):
    return all((a / name).exists() and (a / name).read_bytes() == (b / name).read_bytes() for name in NETWORKS)


def resumed(folder, whole):
    """What is wrong after the run was resumed, or begun again if it had no configuration; "" if nothing."""
    if (folder / "run" / "config.json").exists():
        code, text = Command(folder, "train", "--resume", "run", "-q").wait()
    else:
        shutil.rmtree(folder / "run", ignore_errors=True)  # SIGKILL between its first two lines
        code, text = Command(folder, *TRAIN, "--out", "run").wait()
    if code:
        return f"not resumed, code {code}: {text}"
    if any(name.endswith(".tmp") for name in contents(folder / "run")):
        return "a partial file is left after resuming"
    return "" if same_networks(folder / "run", whole) else "other networks after resuming"


def one_line(code, text, expected, *words):
    """What is wrong with how a command ended, or ""."""
    CODES[code] += 1
    if "Traceback" in text or code == 99:
        return f"traceback: {text}"
    if code not in expected:
        return f"code {code}: {text}"
    if code and (text.count("\n") != 1 or not text.startswith("dirprune: ")):
        return f"not one line: {text}"
    return "" if not code or any(word in text for word in words) else f"names none of {words}: {text}"


def fill_disk(place, base, number, draw):
    """One full disk; what is wrong, or ""."""
    verbs = [[*TRAIN, "--out", "run"]] * 6 + [["train", "--resume", "run", "-q"]] * 2
    verbs += [["report", "run"], ["compare", "run"], ["export", "run", "--format", "sparse"]]
    verbs += [["export", "run", "--format", "state-dict"], [*CURVE, "run"]]
    verb = verbs[number % len(verbs)]
    start = "whole" if verb[0] != "train" else "part" if "--resume" in verb else None
    if start is not None:
        shutil.copytree(base / start, place / "run", symlinks=True)
    before = contents(place)
    if number % 3 == 2:
        prepare = partial(fail_flush, draw.randrange(24))
    else:
        largest = max(map(len, contents(base / "whole").values()))
        size = draw.choice([draw.randrange(2000), draw.randrange(60_000), draw.randrange(int(1.1 * largest))])
        prepare = partial(at_most, size)
    code, text = Command(place, *verb, prepare=prepare).wait()
    after = contents(place)
    wrong = one_line(code, text, (0, 2), "run", "comparison.html")
    if any(name.endswith(".tmp") for name in after):
        wrong = wrong or "a partial file is left"
    if code and (lost := [name for name in before if not name.startswith("run/metrics") and name not in after]):
        wrong = wrong or f"lost {lost}"
    if verb[0] != "train" and code and any(after[name] != before[name] for name in before if "figures" not in name):
        changed = [name for name in before if after[name] != before[name] and "figures" not in name]
        if not set(changed) <= {"run/report.html", "run/curve.npz", *(f"run/{name}" for name in STUDIES)}:
            wrong = wrong or f"changed {changed}"
    return wrong or (resumed(place, base / "whole") if verb[0] == "train" else "")


def kill(place, base, number, draw):
    sign = signal.SIGTERM if number % 2 else signal.SIGKILL
    command = Command(place, *TRAIN, "--out", "run")
    time.sleep(draw.random() * base.seconds)
    os.kill(command.number, sign)
    code, text = command.wait()
    wrong = "" if sign == signal.SIGKILL else one_line(code, text, (0, 143), "stopped")
    return wrong or resumed(place, base / "whole")


def damage(data, draw):
    kind = draw.choice(["cut", "flipped", "emptied", "garbage", "list", "nested", "other"])
    changed = bytearray(data)
    match kind:
        case "cut":
            del changed[draw.randrange(len(data)) :]
        case "flipped":
            for _ in range(draw.choice([1, 1, 8])):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "emptied":
            changed.clear()
        case "garbage":
            changed[:] = draw.randbytes(draw.randrange(1, 3000))
        case "list":
            changed[:] = draw.choice([b"[]", b"3", b"null", b'"text"', b'{"runs": 3, "rows": 3, "epoch": "x"}\n'])
        case "nested":
            changed[:] = draw.choice([b"[", b'{"a":']) * 100_000
        case "other":
            changed[:] = draw.choice([b"PK\x03\x04", b"\x93NUMPY", b"\x80\x02", b"\x08" + bytes(7)]) + data[::-1][:500]
    return kind, bytes(changed)


# A file, the run that has it, and the commands that read it.
RESUME = ["train", "--resume", "run", "-q"]
TARGETS = [
    *(("part", name, RESUME) for name in ("config.json", "metrics.jsonl", "grda/checkpoint.pt", "grda/metrics.jsonl")),
    *(("part", name, RESUME) for name in ("sgd/checkpoint.pt", "sgd/model.safetensors")),
    *(("whole", name, ["report", "run"]) for name in ("config.json", "metrics.jsonl", "summary.json", "curve.npz")),
    *(("whole", name, RESUME) for name in ("config.json", "summary.json")),
    ("whole", "model.sparse.safetensors", ["export", "run", "--format", "state-dict"]),
    ("whole", "model.sparse.safetensors", ["size", "run/model.sparse.safetensors"]),
    ("whole", "grda/checkpoint.pt", ["size", "run/grda/checkpoint.pt"]),
    ("whole", "grda/model.safetensors", ["size", "run/grda/model.safetensors"]),
    *(("whole", name, [*CURVE, "run"]) for name in STUDIES),
    ("whole", "grda/model.safetensors", [*CURVE, "run"]),
    ("sweep", "sweep.json", ["compare", "run"]),
    ("sweep", "sweep.json", RESUME),
]


def damage_file(place, base, number, draw):
    start, name, verb = TARGETS[number % len(TARGETS)]
    shutil.copytree(base / start, place / "run", symlinks=True)
    kind, data = damage((place / "run" / name).read_bytes(), draw)
    (place / "run" / name).write_bytes(data)
    before = contents(place / "run")
    code, text = Command(place, *verb).wait()
    after = contents(place / "run")
    wrong = one_line(code, text, (0, 2), name, Path(name).parent.name or "run")
    written = {"report.html", "comparison.html", *(f"{each}/metrics.jsonl" for each in ("sgd", "grda"))}
    if code and (
        changed := [x for x in before if after.get(x) != before[x] and x not in written and "figures" not in x]
    ):
        wrong = wrong or f"changed {changed}"
    if name in ("sgd/checkpoint.pt", "grda/checkpoint.pt") and verb == RESUME and not code:
        wrong = wrong or ("" if same_networks(place / "run", base / "whole") else "other networks")
    if name == "grda/model.safetensors" and verb[0] == "curve" and not code:
        wrong = wrong or "accepted"  # the summary has its digest
    if kind in ("garbage", "emptied", "other", "nested") and not code and name in ("config.json", "summary.json"):
        wrong = wrong or "accepted"
    return wrong and f"{kind} {name}, {' '.join(verb)}: {wrong}"


class Base:
    """The runs that all faults start from: a whole one, one that was stopped, a sweep."""

    def __init__(self, folder):
        self.folder = folder
        command = Command(folder, *TRAIN, "--out", "whole")
        assert command.wait()[0] == 0
        self.seconds = command.seconds
        command = Command(folder, *TRAIN, "--out", "part")
        while not (folder / "part" / "grda" / "metrics.jsonl").exists():
            time.sleep(0.001)
        os.kill(command.number, signal.SIGTERM)
        assert command.wait()[0] == 143
        assert Command(folder, *CURVE, "whole").wait()[0] == 0
        sweep = ["train", "digits", "--epochs", "1", "-q", "--mu", ".6", ".7", "--out", "sweep"]
        assert Command(folder, *sweep).wait()[0] == 0

    def __truediv__(self, name):
        return self.folder / name


def inject(base, folder, name, one, count, seed, first=0):
    """So many faults; prints each that does not end as it should, and counts them."""
    failures = Counter()
    for number in range(first, first + count):
        place = folder / f"{name}-{number}"
        place.mkdir()
        wrong = one(place, base, number, random.Random(seed * 2**40 + number))
        failures["wrong"] += bool(wrong)
        if wrong:
            print(f"{name} {number}: {' '.join(wrong.split())[:600]}", flush=True)
        shutil.rmtree(place)
    return failures["wrong"]


FAULTS = {"a full disk": fill_disk, "a kill, half of them SIGTERM": kill, "a damaged file": damage_file}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disks", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first fault of each kind")
    parser.add_argument("--write", type=Path, help="a file for the counts")
    args = parser.parse_args()

    torch.set_num_threads(1)
    use_few_images()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    rows = []
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        import_all(folder)
        base = Base(folder)
        for (fault, one), count in zip(FAULTS.items(), (args.disks, args.kills, args.damages)):
            began = time.monotonic()
            wrong = inject(base, folder, one.__name__, one, count, args.seed, args.first)
            codes, seconds = dict(CODES), time.monotonic() - began
            print(f"{fault}: {count} faults, {wrong} wrong, {seconds:.0f} s, exit codes {codes}", flush=True)
            rows.append({"fault": fault, "faults": count, "stopped": CODES[2] + CODES[143], "wrong": wrong})
            CODES.clear()
    if args.write:
        result = {
            "title": "Full disks, kills and damaged files",
            "command": [f"python benchmarks/faults.py --seed {args.seed}"],
            "data": "120 images of digits, 6 epochs of each network",
            "seeds": [args.seed],
            "machine": f"{os.cpu_count()} core of a shared {platform.machine()} machine, one thread",
            "versions": {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]},
            "date": str(datetime.date.today()),
            "columns": [
                ["fault", "{fault}"],
                ["injected", "{faults:,}"],
                ["ended in one line", "{stopped:,}"],
                ["lost, changed or unclear", "{wrong:,}"],
            ],
            "rows": rows,
        }
        args.write.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
