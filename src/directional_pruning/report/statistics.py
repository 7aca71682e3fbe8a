"""Means of a group of runs over its seeds beside the paper's, and what the reader must know of them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..run_folder import Run
from .formatting import NAMES, percent, points
from .groups import Group, gather, is_finished, seed_of
from .published import Published, Setting

COMPARED = (
    ("zeros, all parameters", "sparsity_all"),
    ("test accuracy, sparse", "test_accuracy"),
    ("test accuracy, dense", "twin_accuracy"),
)
"""What the paper has too: how it is called, and its name in a :class:`Row`."""
_ZEROS = ("sparsity_all", "sparsity_prunable")


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
    runs: int
    seeds: int
    """Finished runs; the means are over these."""
    sparsity_all: Stat | None
    sparsity_prunable: Stat | None
    test_accuracy: Stat | None
    twin_accuracy: Stat | None
    seconds: Stat | None
    published: Mapping[str, Stat]
    """The paper's ``sparsity_all``, ``test_accuracy`` and ``twin_accuracy``, those it has."""
    flags: tuple[str, ...]

    def difference(self, name: str) -> float | None:
        """Ours less the published one of a figure that :attr:`published` may hold; None before both are there."""
        ours, theirs = getattr(self, name), self.published.get(name)
        return None if ours is None or theirs is None or not self.seeds else ours.mean - theirs.mean


def comparison_rows(folders: Sequence[Path]) -> list[Row]:
    """What :func:`write_comparison` shows in its tables, as plain records.

    Raises:
        FileNotFoundError, CorruptFileError: as :func:`gather`.

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
    dense = [(run.summary.get("sgd") or _twin(group, run)) for run in finished]
    return Row(
        group.recipe,
        group.label,
        *group.runs[0].setting,
        runs=len(group.runs),
        seeds=len(finished),
        sparsity_all=_stat(results, "sparsity_all"),
        sparsity_prunable=_stat(results, "sparsity_prunable"),
        test_accuracy=_stat(results, "test_accuracy"),
        twin_accuracy=_stat(dense, "test_accuracy"),
        seconds=_stat([run.summary for run in finished], "seconds"),
        published=paper_stats(group.known, group.row),
        flags=tuple(_flags(group)),
    )


def paper_stats(known: Published | None, row: Setting | None) -> dict[str, Stat]:
    """The means and deviations of a published row and its dense baseline, those the paper has."""
    if known is None or row is None:
        return {}
    stats = {
        "sparsity_all": Stat(row.sparsity, row.sparsity_std, row.seeds),
        "test_accuracy": Stat(row.test_accuracy, row.test_accuracy_std, row.seeds),
    }
    twin = known.twin
    return stats | ({"twin_accuracy": Stat(twin.test_accuracy, twin.test_accuracy_std, twin.seeds)} if twin else {})


def protocol_flags(config: Mapping[str, Any], known: Published) -> list[str]:
    """In what a run departs from the paper's protocol, each in a few words."""
    flags = []
    if known.beyond:
        flags.append(f"beyond the paper: beside the rows of {known.recipe}")
    epochs = config.get("epochs")
    if epochs and epochs != known.epochs:
        short = "shortened: " if epochs < known.epochs and not known.beyond else ""
        flags.append(f"{short}{epochs} epochs, the paper's runs have {known.epochs}")
    if (config.get("samples") or 0) > 0:
        flags.append(f"trained on a subset: {config['samples']:,} images")
    train, test = config.get("training_images"), config.get("test_images")
    if train and test and (test != known.images[1] or not (config.get("samples") or train == known.images[0])):
        theirs = "the paper's are {:,} and {:,}".format(*known.images)
        flags.append(f"other data: {train:,} images to train and validate, {test:,} to test; {theirs}")
    if not known.beyond:
        for key, theirs in known.protocol.items():
            if config.get(key, theirs) != theirs:
                flags.append(f"{key.replace('_', ' ')} {config[key]}, the paper's is {theirs}")
    if not config.get("paper_protocol"):
        flags.append("part of the training images held out for validation; the paper trains on all")
    return flags


def mean_and_deviation(stat: Stat, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    r"""Percent, and the deviation in points where there is one.

    >>> mean_and_deviation(Stat(0.90856, 0.0026, 10)), mean_and_deviation(Stat(0.7324, None, 1), unit="")
    ('90.86\xa0%\xa0±\xa00.26', '73.24')
    """
    deviation = "" if stat.std is None else f" ± {100 * stat.std:.2f}".replace(" ", "\N{NO-BREAK SPACE}")
    return percent(stat.mean, 2).removesuffix("\N{NO-BREAK SPACE}%") + unit + deviation


def in_words(row: Row, name: str) -> str:
    """One of the compared figures, in percent: ours, and below it the paper's and the difference in points."""
    ours, theirs, difference = getattr(row, name), row.published.get(name), row.difference(name)
    lines = ["–" if ours is None else mean_and_deviation(ours, unit="")]
    if theirs is not None:
        lines.append(f"paper {mean_and_deviation(theirs._replace(std=None), unit='')}")
    if difference is not None:
        lines.append(f"{points(difference)} points")
    return "\n".join(lines)


def shared_flags(rows: Sequence[Row]) -> list[str]:
    """What is to be said of all of several rows, and so need not be said of each."""
    first, *others = rows
    return [flag for flag in first.flags if others and all(flag in row.flags for row in others)]


def _flags(group: Group) -> Iterable[str]:
    config, runs = group.config, group.runs
    for run in runs:
        for network, what in run.diverged.items():
            yield f"seed {seed_of(run)}: {NAMES[network]} diverged, {what}"
    waiting = [run for run in runs if not is_finished(run) and not run.diverged]
    if waiting:
        steps = [
            f"{NAMES[run.metrics[-1]['network']]} at epoch {run.metrics[-1]['epoch']}" for run in waiting if run.metrics
        ]
        furthest = f" ({', '.join(steps)} of {config.get('epochs')})" if steps else ""
        yield f"{len(waiting)} of {len(runs)} runs not finished{furthest}"
    twice = [str(seed) for seed, count in Counter(map(seed_of, runs)).items() if count > 1]
    if twice:
        yield f"more than one run of seed {', '.join(twice)}"
    if group.known is None:
        if (config.get("samples") or 0) > 0:
            yield f"trained on a subset: {config['samples']:,} samples"
        return
    yield from protocol_flags(config, group.known)
    if group.row is None:
        yield "not a setting of the paper"
    elif group.row.note:
        yield f"the paper: {group.row.note}"


def _twin(group: Group, run: Run) -> Mapping[str, Any]:
    """The result of the dense baseline that another run of this seed has trained."""
    other = group.twins.get(seed_of(run))
    return {} if other is None else other.summary.get("sgd", {})


def _stat(records: Iterable[Mapping[str, Any]], key: str) -> Stat | None:
    values = [record[key] for record in records if key in record]
    if not values:
        return None
    finite = all(map(math.isfinite, values))
    return Stat(mean(values), stdev(values) if len(values) > 1 and finite else None, len(values))
