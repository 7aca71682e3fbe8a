"""The search for the sparsest network within a drop: its targets, its runs, stopped and resumed, its page."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directional_pruning import cli
from directional_pruning.files import CorruptFileError, locked
from directional_pruning.report import read_tuned, write_report, write_tune
from directional_pruning.run_folder import LOCK
from directional_pruning.runs import (
    digits_recipe,
    resume_tuning,
    start_tuning,
    sweep_runs,
    train_tuning,
    tune,
    variants,
)
from directional_pruning.runs.bisection import LARGEST, next_targets
from directional_pruning.training import TrainingStopped

RECIPE = replace(digits_recipe(), epochs=3)
DENSE = 0.99

pytestmark = pytest.mark.usefixtures("one_thread")


def search(holds, trainings, jobs):
    """Bisect with ``holds(target)``; what was tried."""
    held = {}
    while targets := next_targets(held, min(jobs, trainings - len(held))):
        held |= {target: holds(target) for target in targets}
    return held


@given(st.floats(0, 0.9999), st.integers(1, 12), st.integers(1, 4))
def test_on_a_monotone_curve_the_search_closes_in_on_the_largest_target_that_holds(limit, trainings, jobs):
    held = search(lambda target: target <= limit, trainings, jobs)
    assert 1 <= len(held) <= trainings
    best = max((target for target, good in held.items() if good), default=0.0)
    worst = min((target for target, good in held.items() if not good), default=LARGEST)
    assert best <= limit or best == 0
    assert limit < worst or limit >= worst == LARGEST
    # A round of n targets leaves one part of n + 1; of what is left two digits are kept.
    rounds, rest = divmod(trainings, jobs)
    parts = (jobs + 1) ** rounds * (rest + 1)
    # The search may end before, where two digits allow no target between.
    assert math.log((1 - best) / (1 - worst)) <= math.log(1 / (1 - LARGEST)) / parts + 0.25


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 4))
def test_on_a_noisy_curve_no_more_targets_are_trained_and_none_twice(random, trainings, jobs):
    tried = []

    def holds(target):
        tried.append(target)
        return random.random() < 0.5

    held = search(holds, trainings, jobs)
    assert len(tried) == len(set(tried)) == len(held) <= trainings
    assert all(0 < target < LARGEST for target in tried)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A search whose trainings are replaced: ``curve(target, seed)`` is the validation accuracy of a sparse network."""
    trained = []

    def start(curve, **options):
        def train_networks(tasks, splits, **ignored):
            for run, network in tasks:
                trained.append((run.name, network))
                recipe = tune.load_run(run)[0]
                accuracy = DENSE if network == "sgd" else curve(recipe.target, recipe.seed)
                record = {"network": network, "epoch": 3, "epochs": 3, "validation_accuracy": accuracy}
                record |= {"validation_loss": 1 - accuracy, "sparsity_pruned": recipe.target}
                with open(run / "metrics.jsonl", "a") as file:
                    file.write(json.dumps(record) + "\n")
                (run / network).mkdir(exist_ok=True)
                (run / network / "model.safetensors").touch()
            return {}

        test = {network: {"test_accuracy": 0.9, "test_loss": 0.1} for network in ("sgd", "grda")}
        monkeypatch.setattr(tune, "train_networks", train_networks)
        monkeypatch.setattr(tune, "train_run", lambda run, **options: trained.append((run.name, "test")) or test)
        return start_tuning(RECIPE, device="cpu", out=tmp_path / "tune", **options)

    return start, trained


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(("metric", "drop"), [("accuracy", 1.0), ("loss", 0.01)])
def test_the_sparsest_target_within_the_drop_is_chosen_and_tested_once(fake, jobs, metric, drop):
    start, trained = fake
    tuning = start(lambda target, seed: DENSE - 0.2 * max(target - 0.9, 0), drop=drop, metric=metric, seeds=(4, 5))
    result = train_tuning(tuning, jobs=jobs)
    assert len(result["tried"]) == 6
    assert [each["target"] <= 0.95 + 1e-9 for each in result["tried"]] == [each["held"] for each in result["tried"]]
    assert result["chosen"] == max(each["target"] for each in result["tried"] if each["held"])
    assert 0.94 <= result["chosen"] <= 0.95
    assert sorted(name for name, network in trained if network == "sgd") == sorted(
        run.name for run in sweep_runs(tuning.folder) if not (run / "sgd").is_symlink()
    )
    assert len(trained) == len(set(trained)) == 2 + 2 * 6 + 2
    assert [name for name, network in trained if network == "test"] == [
        f"seed{seed}-target{result['chosen']}" for seed in (4, 5)
    ]


def test_a_search_where_nothing_holds_chooses_nothing_and_uses_no_test_data(fake):
    start, trained = fake
    tuning = start(lambda target, seed: math.nan if target > 0.9 else 0.2, drop=0.5, trainings=3)
    result = train_tuning(tuning)
    assert (result["chosen"], result["test"]) == (None, [])
    assert not [name for name, network in trained if network == "test"]
    least = result["tried"][0]["target"]
    choice = f"no target is within 0.5 points: {100 * least:.1f}\xa0% zeros lose 79.00 already"
    assert read_tuned(tuning.folder).choice() == choice
    assert "diverged" in write_tune(tuning.folder).read_text()


def test_a_dense_network_at_chance_ends_the_search_before_a_sparse_one_is_trained(fake, monkeypatch):
    start, trained = fake
    monkeypatch.setattr(sys.modules[__name__], "DENSE", 0.12)
    with pytest.raises(ValueError, match=r"the dense network has learned nothing: 12.00 % of the validation data"):
        train_tuning(start(lambda target, seed: 0.5, drop=1.0))
    assert [network for _, network in trained] == ["sgd"]


def test_a_search_in_use_and_a_damaged_one_are_refused(fake, tmp_path):
    start, _ = fake
    tuning = start(lambda target, seed: 0.9, drop=1.0)
    with locked(tuning.folder, LOCK), pytest.raises(BlockingIOError, match="in use by process"):
        train_tuning(tuning)
    for damage in ("{", '{"recipe": "digits"}', (tuning.folder / "tune.json").read_text().replace("1.0", "-1")):
        (tuning.folder / "tune.json").write_text(damage)
        with pytest.raises(CorruptFileError, match=r"tune\.json is not a readable search"):
            resume_tuning(tuning.folder, {})
    (tuning.folder / "tune.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"tune\.json is not a readable search"):
        write_tune(tuning.folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": -0.5}, r"invalid drop: -0.5 \(must be >= 0"),
        ({"drop": math.nan}, "invalid drop: nan"),
        ({"drop": 1, "metric": "f1"}, r"invalid metric: f1 \(must be one of accuracy, loss\)"),
        ({"drop": 1, "trainings": 0}, "invalid trainings: 0"),
        ({"drop": 1, "seeds": [-1]}, "invalid seed: -1"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        start_tuning(RECIPE, device="cpu", out=tmp_path / "tune", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_papers_protocol_holds_nothing_out_to_choose_on(tmp_path):
    (recipe,) = variants("vgg16-cifar10", {"paper_protocol": True})
    with pytest.raises(ValueError, match="no validation data to choose on: take away --paper-protocol"):
        start_tuning(recipe, drop=1, out=tmp_path / "tune")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digits"], "how much may be lost? Give --drop"),
        (["nothing", "--drop", "1"], "unknown recipe: nothing"),
        (["digits", "--drop", "-1"], "invalid drop: -1.0"),
        (["digits", "--resume", "x"], "--resume goes on with the search as it was configured"),
        (["--resume", "nowhere"], "not a folder of tune (no tune.json): nowhere"),
    ],
)
def test_a_mistake_of_tune_is_one_line(tmp_path, capsys, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dirprune", "tune", *args])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_stopped_and_resumed_a_real_search_trains_nothing_twice_and_writes_its_page(tmp_path, capsys, monkeypatch):
    epochs = []

    def show(runs):
        return nullcontext(lambda task, done, total, record=None: epochs.append((task, done)))

    tuning = start_tuning(RECIPE, drop=60.0, trainings=2, device="cpu", out=tmp_path / "tune")
    with pytest.raises(TrainingStopped):
        train_tuning(tuning, show=show, stop=lambda: len(epochs) >= 4)  # in the first sparse network
    assert not list(tmp_path.glob("tune/*/summary.json"))
    monkeypatch.setattr(sys, "argv", ["dirprune", "tune", "--resume", str(tmp_path / "tune")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert "dense baseline: epoch" not in out
    runs = sweep_runs(tmp_path / "tune")
    assert len(runs) == 2
    assert [(run / "sgd").is_symlink() for run in runs] == [False, True]
    records = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert [(record["network"], record["epoch"]) for record in records] == [
        (network, epoch) for network in ("sgd", "grda") for epoch in (1, 2, 3)
    ]
    tuned = read_tuned(tmp_path / "tune")
    assert [abs(each.zeros - each.target) < 1e-4 for each in tuned.tried] == [True, True]
    assert tuned.chosen is not None
    assert tuned.dense - tuned.chosen.value <= 0.6
    assert tuned.choice() in out
    assert "one of 135 validation images is 0.74 points" in out
    assert len(list(tmp_path.glob("tune/*/summary.json"))) == 1  # only the chosen one was tested
    (other,) = (run for run in runs if not (run / "summary.json").exists())
    assert "<h1>Trained, and not measured on the test data</h1>" in write_report(other).read_text()
    page = (tmp_path / "tune" / "tune.html").read_text()
    assert page.count('<img alt="Validation accuracy against zeros of the pruned weights: ') == 1
    # Again: nothing is left to do, the same page.
    before = (runs[0] / "metrics.jsonl").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        cli.main()
    assert (runs[0] / "metrics.jsonl").stat().st_mtime_ns == before
    assert (tmp_path / "tune" / "tune.html").read_text() == page
