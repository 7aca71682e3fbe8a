"""Means over the seeds of a group beside the paper's, and how its runs differ from the paper's protocol."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..run_folder import Finding
from .findings import problems, remarks
from .formatting import MISSING, NAMES, percent, points
from .groups import Group, gather, is_finished, seed_of
from .published import Published

COMPARED = (
    ("zeros, all parameters", "sparsity_all"),
    ("test accuracy, sparse", "test_accuracy"),
    ("test accuracy, dense", "dense_accuracy"),
)
"""The figures that the paper has too: heading, and name in a :class:`Row`."""
_ZEROS = ("sparsity_all", "sparsity_prunable", "sparsity_pruned")


class Stat(NamedTuple):
    """A mean over so many seeds, and the sample standard deviation where there are two or more."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """One setting of one recipe: means over its seeds, the published figures, differences; fractions throughout."""

    recipe: str
    label: str
    c: float
    mu: float
    target: float | None
    """The share of zeros asked for, of the pruned weights; then c and mu do not count."""
    runs: int
    seeds: int
    """Finished runs; the means are over these."""
    sparsity_all: Stat | None
    sparsity_prunable: Stat | None
    sparsity_pruned: Stat | None
    """Of the weights that the optimizer prunes; None in runs from before this was counted."""
    test_accuracy: Stat | None
    dense_accuracy: Stat | None
    seconds: Stat | None
    published: Mapping[str, Stat]
    """The paper's ``sparsity_all``, ``test_accuracy`` and ``dense_accuracy``, those it has."""
    flags: tuple[str, ...]
    problems: tuple[Finding, ...] = ()
    """What went wrong in its finished runs."""
    remarks: tuple[Finding, ...] = ()
    """What the difference in accuracy means, of a single run; with several, the deviation says it."""

    def difference(self, name: str) -> float | None:
        """Ours less the published one of a figure; None where one of the two is missing."""
        ours, paper = getattr(self, name), self.published.get(name)
        return None if ours is None or paper is None or not self.seeds else ours.mean - paper.mean


def comparison_rows(folders: Sequence[Path]) -> list[Row]:
    """What :func:`write_comparison` shows in its tables, as plain records; raises what it raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = (Path(run) / "config.json").write_text('{"recipe": "digits", "c": 0.01, "mu": 0.7, "seed": 3}')
    ...     _ = (Path(run) / "summary.json").write_text('{"grda": {"sparsity_all": 0.9, "test_accuracy": 0.99}}')
    ...     (row,) = comparison_rows([Path(run)])
    >>> row.label, row.seeds, row.test_accuracy
    ('μ 0.7', 1, Stat(mean=0.99, std=None, count=1))
    """
    return [row_of(group) for group in gather(folders)]


def row_of(group: Group) -> Row:
    """The means of a group, beside the paper's."""
    finished = group.finished
    results = [run.summary["grda"] for run in finished]
    if not results:  # the zeros so far
        results = [{k: v for k, v in run.of("grda")[-1].items() if k in _ZEROS} for run in group.runs if run.of("grda")]
    # A sweep need not train the dense baseline of a seed once more for each setting.
    dense = [
        run.summary.get("sgd") or group.dense_runs.get(seed_of(run), run).summary.get("sgd", {}) for run in finished
    ]
    return Row(
        group.runs[0].name,
        group.label,
        *group.runs[0].setting,
        target=group.runs[0].target,
        runs=len(group.runs),
        seeds=len(finished),
        sparsity_all=_stat(results, "sparsity_all"),
        sparsity_prunable=_stat(results, "sparsity_prunable"),
        sparsity_pruned=_stat(results, "sparsity_pruned"),
        test_accuracy=_stat(results, "test_accuracy"),
        dense_accuracy=_stat(dense, "test_accuracy"),
        seconds=_stat([run.summary for run in finished], "seconds"),
        published=_published_stats(group),
        flags=tuple(_flags(group)),
        problems=tuple(_problems(group)),
        remarks=tuple(remarks(finished[0])) if len(finished) == 1 else (),
    )


def protocol_flags(config: Mapping[str, Any], paper: Published) -> list[str]:
    """How a run departs from the paper's protocol, each departure in a few words."""
    flags = []
    if paper.modern:
        flags.append(f"beyond the paper: beside the rows of {paper.recipe}")
    epochs, samples = config.get("epochs"), config.get("samples") or 0
    if epochs and epochs != paper.epochs:
        short = "shortened: " if epochs < paper.epochs and not paper.modern else ""
        flags.append(f"{short}{epochs} epochs, the paper's runs have {paper.epochs}")
    if samples > 0:
        flags.append(f"trained on a subset: {samples:,} images")
    train, test = config.get("training_images"), config.get("test_images")
    if train and test and (test != paper.images[1] or not (samples or train == paper.images[0])):
        images = "the paper's are {:,} and {:,}".format(*paper.images)
        flags.append(f"other data: {train:,} images to train and validate, {test:,} to test; {images}")
    for key, value in paper.protocol.items():
        if not paper.modern and config.get(key, value) != value:
            flags.append(f"{key.replace('_', ' ')} {config[key]}, the paper's is {value}")
    if not config.get("paper_protocol"):
        flags.append("part of the training images held out for validation; the paper trains on all")
    return flags


def mean_and_deviation(stat: Stat | None, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    r"""Percent, and the deviation in points where there is one.

    >>> mean_and_deviation(Stat(0.90856, 0.0026, 10)), mean_and_deviation(Stat(0.7324, None, 1), unit="")
    ('90.86\xa0%\xa0±\xa00.26', '73.24')
    """
    if stat is None:
        return MISSING
    deviation = "" if stat.std is None else f" ± {100 * stat.std:.2f}".replace(" ", "\N{NO-BREAK SPACE}")
    return percent(stat.mean, 2).removesuffix("\N{NO-BREAK SPACE}%") + unit + deviation


def in_words(row: Row, name: str) -> str:
    """One of the compared figures, in percent: ours, and below it the paper's and the difference in points."""
    paper, difference = row.published.get(name), row.difference(name)
    lines = [mean_and_deviation(getattr(row, name), "")]
    lines += [f"paper {mean_and_deviation(paper._replace(std=None), '')}"] if paper else []
    lines += [] if difference is None else [f"{points(difference)} points"]
    return "\n".join(lines)


def reached(row: Row) -> str:
    """For a row with a target, the zeros that it has reached; for others nothing."""
    if row.target is None or row.sparsity_pruned is None:
        return ""
    zeros = mean_and_deviation(row.sparsity_pruned)
    return f"zeros of the pruned weights: asked {percent(row.target, 2)}, reached {zeros}"


def shared_flags(rows: Sequence[Row]) -> list[str]:
    """The flags that all of several rows have, and that need not be repeated for each."""
    first, *others = rows
    return [flag for flag in first.flags if others and all(flag in row.flags for row in others)]


def _flags(group: Group) -> Iterable[str]:
    config, runs = group.runs[0].config, group.runs
    for run in runs:
        for network, reason in run.diverged.items():
            yield f"seed {seed_of(run)}: {NAMES[network]} diverged, {reason}"
    unfinished = [run for run in runs if not is_finished(run) and not run.diverged]
    if unfinished:
        last = [run.metrics[-1] for run in unfinished if run.metrics]
        steps = ", ".join(f"{NAMES[record['network']]} at epoch {record['epoch']}" for record in last)
        progress = f" ({steps} of {config.get('epochs')})" if steps else ""
        yield f"{len(unfinished)} of {len(runs)} runs not finished{progress}"
    repeated = [str(seed) for seed, count in Counter(map(seed_of, runs)).items() if count > 1]
    if repeated:
        yield f"more than one run of seed {', '.join(repeated)}"
    if group.paper is None:
        if (config.get("samples") or 0) > 0:
            yield f"trained on a subset: {config['samples']:,} samples"
        return
    yield from protocol_flags(config, group.paper)
    if group.paper_row is None:
        yield "not a setting of the paper"
    elif group.paper_row.note:
        yield f"the paper: {group.paper_row.note}"


def _problems(group: Group) -> Iterable[Finding]:
    for run in group.finished:
        seed = f"seed {seed_of(run)}: " if len(group.runs) > 1 else ""
        yield from (replace(finding, text=seed + finding.text) for finding in problems(run))


def _published_stats(group: Group) -> dict[str, Stat]:
    paper, row = group.paper, group.paper_row
    if paper is None or row is None:
        return {}
    accuracies = [("test_accuracy", row), ("dense_accuracy", paper.dense)]
    stats = {name: Stat(x.test_accuracy, x.test_accuracy_std, x.seeds) for name, x in accuracies if x}
    return {"sparsity_all": Stat(row.sparsity, row.sparsity_std, row.seeds)} | stats


def _stat(records: Iterable[Mapping[str, Any]], key: str) -> Stat | None:
    values = [record[key] for record in records if key in record]
    if not values:
        return None
    finite = all(map(math.isfinite, values))
    return Stat(mean(values), stdev(values) if len(values) > 1 and finite else None, len(values))
