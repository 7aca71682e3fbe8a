"""The sparsest network whose validation metric is within a drop of the dense one: train, measure, bisect."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..files import locked
from ..progress import Progress, ignore_progress
from ..run_folder import LOCK, WEIGHTS, Record, read_metrics, read_summary
from .bisection import next_targets
from .config import load_run
from .locking import baseline_run, locked_runs
from .outcome import above_chance
from .run import train_run
from .sweep import add_runs, train_networks
from .tuning import Tuning, tuning_runs, validation_labels, write_tuning

__all__ = ["train_tuning"]


def train_tuning(
    tuning: Tuning,
    *,
    jobs: int = 1,
    show: Callable[[Sequence[Path]], AbstractContextManager[Progress]] = lambda runs: nullcontext(ignore_progress),
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Record:
    """Train networks with more and fewer zeros until the answer is found, and return what ``tune.json`` then holds.

    The dense network of each seed is trained once. A target is one run for each seed; it holds if the mean of the
    metric over the seeds is within the drop of the dense networks'. The largest target that holds is chosen. All
    choices are made on the validation data; the test data are used for the chosen networks and their dense twins.

    Args:
        jobs: networks trained side by side.
        show: makes the progress of the next runs.
        stop: asks for an end after the next step, as in :func:`~directional_pruning.training.fit`.
        options: of ``train_network``.

    Raises:
        ValueError: for a dense network that diverged or has learned nothing.
        BlockingIOError: if another process works in the folder.
        TrainingStopped: if ``stop`` returned True; the search can be resumed.
    """
    folder, options = tuning.folder, options | {"stop": stop}
    with locked(folder, LOCK):
        while runs := _next_runs(tuning, max(1, jobs // len(tuning.seeds))):
            with locked_runs(runs), show(runs) as progress:
                options["progress"] = progress
                dense = [(run, "sgd") for run in runs if run == baseline_run(run) and not _is_trained(run, "sgd")]
                failed = train_networks(dense, tuning.splits, jobs=min(jobs, len(dense)), **options)
                if failed:
                    raise ValueError(f"the dense network diverged, {next(iter(failed.values()))}; use a smaller --lr")
                _check_dense(tuning)
                train_networks([(run, "grda") for run in runs], tuning.splits, jobs=jobs, **options)
            write_tuning(tuning, _measure(tuning))
        result = _measure(tuning)
        for run in tuning_runs(folder):
            if load_run(run)[0].target == result["chosen"]:
                if not (summary := read_summary(run)):
                    summary = train_run(run, splits=tuning.splits, **options | {"progress": ignore_progress})
                result["test"].append({name: summary[name][f"test_{tuning.metric}"] for name in ("sgd", "grda")})
        return write_tuning(tuning, result)


def _is_trained(run: Path, network: str) -> bool:
    """Whether it is finished; a sparse network that diverged is, and has no metric."""
    return (run / network / WEIGHTS).exists() or (network == "grda" and network in read_metrics(run)[1])


def _next_runs(tuning: Tuning, count: int) -> list[Path]:
    """Runs that a stop left unfinished, or new ones of ``count`` targets; none when the search is over."""
    if unfinished := [run for run in tuning_runs(tuning.folder) if not _is_trained(run, "grda")]:
        return unfinished
    held = {tried["target"]: tried["held"] for tried in _measure(tuning)["tried"]}
    targets = next_targets(held, min(count, tuning.trainings - len(held)))
    recipes = [replace(tuning.recipe, seed=seed, target=target) for target in targets for seed in tuning.seeds]
    return add_runs(tuning.folder, recipes, tuning.device) if recipes else []


def _last(run: Path, network: str) -> Record:
    """The last epoch of a trained network; of one that diverged, nothing."""
    records, diverged = read_metrics(baseline_run(run) if network == "sgd" else run)
    ends = [record for record in records if record["network"] == network]
    return ends[-1] if ends and network not in diverged else {}


def _measure(tuning: Tuning) -> Record:
    """The targets that are trained with every seed, how far each is from the dense networks, and the chosen one."""
    key = f"validation_{tuning.metric}"
    runs: dict[float, list[Path]] = {}
    for run in tuning_runs(tuning.folder):
        runs.setdefault(load_run(run)[0].target or 0.0, []).append(run)
    dense = {run: _last(run, "sgd").get(key, math.nan) for part in runs.values() for run in part}
    tried: list[Record] = []
    for target, part in sorted(runs.items()):
        if not all(_is_trained(run, "grda") for run in part):
            continue
        values = [_last(run, "grda").get(key, math.nan) for run in part]
        lost = mean(values) - mean(dense[run] for run in part)
        lost = -100 * lost if tuning.metric == "accuracy" else lost
        tried.append({
            "target": target,
            "zeros": mean(_last(run, "grda").get("sparsity_pruned", math.nan) for run in part),
            "value": mean(values),
            "deviation": stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None,
            "drop": lost,
            "held": lost <= tuning.drop + 1e-9,
            "runs": [run.name for run in part],
        })  # fmt: skip
    seeds = {load_run(run)[0].seed: value for run, value in dense.items()}
    return {
        "dense": mean(seeds.values()) if seeds else None,
        "tried": tried,
        "chosen": max((each["target"] for each in tried if each["held"]), default=None),
        "test": [],
    }


def _check_dense(tuning: Tuning) -> None:
    labels = validation_labels(tuning.splits)
    majority = int(labels.bincount().max()) / len(labels)
    for run in tuning_runs(tuning.folder):
        accuracy = _last(run, "sgd").get("validation_accuracy", math.nan)
        if not above_chance(accuracy, majority, len(labels)):
            shares = f"{100 * accuracy:.2f} % of the validation data, the most frequent class {100 * majority:.2f} %"
            raise ValueError(f"the dense network has learned nothing: {shares}; change --lr or --epochs")
