"""Several runs: over seeds and settings, one after the other and side by side, stopped and resumed."""

import json
import math
import time
from dataclasses import replace

import programs
import psutil
import pytest
import torch

from directional_pruning.cli.app import repeat_flags
from directional_pruning.files import CorruptFileError
from directional_pruning.report import comparison_rows, write_report
from directional_pruning.runs import (
    create_run,
    create_sweep,
    digits_recipe,
    load_run,
    sweep_runs,
    train_run,
    train_sweep,
)

CPU = torch.device("cpu")
RECIPES = [replace(digits_recipe(), epochs=2, seed=seed, mu=mu) for seed in (1, 2) for mu in (0.6, 0.7)]
SPLITS = digits_recipe().splits(CPU)
TRAIN = ["-m", "directional_pruning", "train"]


def lines(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in records]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def single_runs(tmp_path_factory, one_thread):
    """The same runs, each trained without a sweep."""
    folders = []
    for recipe in RECIPES:
        folders.append(tmp_path_factory.mktemp("single") / "run")
        create_run(folders[-1], recipe, CPU)
        train_run(folders[-1])
    return folders


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_is_its_runs_and_trains_a_shared_baseline_once(tmp_path, single_runs, jobs):
    folder = tmp_path / "sweep"
    create_sweep(folder, RECIPES, CPU)
    runs = sweep_runs(folder)
    assert [run.name for run in runs] == [f"seed{s}-c0.01-mu{mu}" for s in (1, 2) for mu in (0.6, 0.7)]
    assert [load_run(run)[0] for run in runs] == RECIPES
    reported = []
    diverged = train_sweep(runs, SPLITS, jobs=jobs, progress=lambda *call: reported.append(call[:3]))
    assert diverged == {}
    tasks = {str(run / network) for run in runs for network in ("sgd", "grda")}
    assert {(task, done, 2) for task in tasks for done in (1, 2)} == set(reported)
    for run, single in zip(runs, single_runs, strict=True):
        assert lines(run) == lines(single)
        for network in ("sgd", "grda"):
            file = f"{network}/model.safetensors"
            assert (run / file).read_bytes() == (single / file).read_bytes()
        assert json.loads((run / "summary.json").read_text())["grda"]["sparsity_all"] > 0
    for first, second in (runs[:2], runs[2:]):
        assert (second / "sgd").is_symlink()
        assert (second / "sgd").resolve() == (first / "sgd").resolve()
        assert not (first / "sgd").is_symlink()


def test_what_is_finished_is_skipped_and_the_rest_goes_on(tmp_path, single_runs):
    folder = tmp_path / "sweep"
    create_sweep(folder, RECIPES[:2], CPU)
    runs = sweep_runs(folder)

    class KilledError(Exception):
        pass

    def kill(task, done, total, record):
        if task == str(runs[1] / "grda"):
            raise KilledError

    with pytest.raises(KilledError):
        train_sweep(runs, SPLITS, progress=kill, checkpoint_every=1)
    assert [(run / "summary.json").exists() for run in runs] == [True, False]
    before = (runs[0] / "summary.json").stat().st_mtime_ns
    assert train_sweep(runs, SPLITS) == {}
    assert (runs[0] / "summary.json").stat().st_mtime_ns == before
    assert [lines(run) for run in runs] == [lines(run) for run in single_runs[:2]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_diverges_is_named_and_the_others_finish(tmp_path, jobs):
    folder = tmp_path / "sweep"
    recipes = [replace(RECIPES[0], lr=1e30), RECIPES[2], replace(RECIPES[0], lr=1e30, mu=0.9)]
    create_sweep(folder, recipes, CPU)
    runs = sweep_runs(folder)
    diverged = train_sweep(runs, SPLITS, jobs=jobs)
    assert diverged.keys() == {runs[0], runs[2]}
    assert all("the loss is" in what and "step" in what for what in diverged.values())
    assert [(run / "summary.json").exists() for run in runs] == [False, True, False]
    # The page and the comparison say so too: a run that diverged is not one that was stopped.
    assert "The dense baseline diverged: the loss is" in write_report(runs[0]).read_text()
    flags = [flag for row in comparison_rows([folder]) for flag in row.flags]
    assert any(f"seed 1: dense baseline diverged, {diverged[runs[0]]}" == flag for flag in flags)


def test_one_run_side_by_side_is_the_run(tmp_path, single_runs):
    create_run(tmp_path / "run", RECIPES[0], CPU)
    assert sweep_runs(tmp_path / "run") == [tmp_path / "run"]
    assert train_sweep([tmp_path / "run"], SPLITS, jobs=2) == {}
    assert lines(tmp_path / "run") == lines(single_runs[0])


def test_a_sweep_is_never_written_over_another_and_a_broken_one_is_named(tmp_path):
    create_sweep(tmp_path / "sweep", RECIPES[:1], CPU)
    with pytest.raises(FileExistsError):
        create_sweep(tmp_path / "sweep", RECIPES[:1], CPU)
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"sweep\.json is not a readable sweep"):
        sweep_runs(tmp_path / "sweep")


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ("train x --mu .4 .51 --c 1e-3", "train x --mu .4 --mu .51 --c 1e-3"),
        ("train --seeds 1 2 3 x", "train --seeds 1 --seeds 2 --seeds 3 x"),
        ("train --mu .4 --mu .5 .6 -j 2", "train --mu .4 --mu .5 --mu .6 -j 2"),
        ("train --seed 1 -2", "train --seed 1 --seed -2"),
        ("train --epochs 3 4", "train --epochs 3 4"),
        ("train --mu", "train --mu"),
        ("", ""),
    ],
)
def test_several_values_of_a_flag(given, repeated):
    assert repeat_flags(given.split()) == repeated.split()


def test_a_larger_c_gives_more_zeros(tmp_path):
    """A sweep in which only the threshold's strength differs: more of it, more zeros."""
    create_sweep(tmp_path / "sweep", [replace(RECIPES[0], c=c) for c in (0.001, 0.05)], CPU)
    runs = sweep_runs(tmp_path / "sweep")
    train_sweep(runs, SPLITS)
    zeros = [json.loads((run / "summary.json").read_text())["grda"]["sparsity_all"] for run in runs]
    assert 0 < zeros[0] < zeros[1]
    assert all(math.isfinite(zero) for zero in zeros)


def test_a_killed_worker_is_one_line_that_says_how_to_go_on(tmp_path):
    parent = programs.Program(*TRAIN, "digits", "--epochs", "40", "-j", "2", "-q", "--out", "run", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Not the tracker of resources, which has no memory of its own to speak of.
    max(psutil.Process(parent.pid).children(), key=lambda child: child.memory_info().rss).kill()
    _, err = parent.communicate(timeout=100)
    assert parent.returncode == 1
    message = (
        "a training process was killed; the machine may lack memory for --jobs; go on with: dirprune train --resume run"
    )
    assert err == f"dirprune: {message}\n"


def test_close_settings_are_runs_of_their_own(tmp_path):
    create_sweep(tmp_path / "sweep", [replace(RECIPES[0], mu=mu) for mu in (0.6, 0.6000001)], CPU)
    assert len({load_run(run)[0].mu for run in sweep_runs(tmp_path / "sweep")}) == 2


def test_a_killed_sweep_leaves_no_process_behind_and_goes_on(tmp_path):
    flags = ["digits", "--epochs", "40", "--mu", ".6", ".7", "-j", "2", "-q", "--out", "sweep"]
    victim = programs.Program(*TRAIN, *flags, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not len([*tmp_path.glob("sweep/*/sgd/checkpoint.pt"), *tmp_path.glob("sweep/*/grda/checkpoint.pt")]) >= 2:
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(victim.pid).children(recursive=True)
    victim.kill()
    victim.wait()
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    code, out, err = programs.run(*TRAIN, "--resume", "sweep", "-j", "2", "-q", cwd=tmp_path)
    assert (code, out) == (0, "sweep\n"), err
    assert [len(lines(run)) for run in sweep_runs(tmp_path / "sweep")] == [80, 80]
