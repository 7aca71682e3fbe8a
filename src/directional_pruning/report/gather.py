"""Runs of one setting under one protocol, gathered over seeds: their means, and what the reader must know of them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from .published import Published, Setting, published
from .records import Run, read_run
from .text import percent

_ZEROS = ("sparsity_all", "sparsity_prunable")
# What two runs must share, beside recipe and setting, for their mean to mean something; and how to say it.
_PROTOCOL: dict[str, str] = {
    "epochs": "{} epochs",
    "lr": "rate {}",
    "batch_size": "batch {}",
    "samples": "{} samples",
    "paper_protocol": "paper protocol {}",
    "model": "{}",
    "num_classes": "{} classes",
    "momentum": "momentum {}",
    "weight_decay": "decay {}",
    "label_smoothing": "smoothing {}",
    "precision": "{}",
}


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
        """Ours less the published one of a figure that :attr:`published` may hold; None where either is not there."""
        ours, theirs = getattr(self, name), self.published.get(name)
        return None if ours is None or theirs is None else ours.mean - theirs.mean


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, setting and protocol, in the order of their seeds."""

    setting: str
    protocol: str
    runs: tuple[Run, ...]
    twins: Mapping[Any, Run]
    """By seed, the runs of the recipe and protocol that hold a dense twin."""
    known: Published | None

    @property
    def label(self) -> str:
        """Setting and protocol in short, as far as they tell it from the other groups of its recipe."""
        return ", ".join(filter(None, (self.setting, self.protocol)))

    @property
    def recipe(self) -> str:
        """The name they share."""
        return self.runs[0].name

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first, with which the others agree but for the seed."""
        return self.runs[0].config

    @property
    def finished(self) -> list[Run]:
        """Those that have a result."""
        return [run for run in self.runs if _is_finished(run)]

    @property
    def row(self) -> Setting | None:
        """What the paper has for the setting."""
        return self.known.setting(*self.runs[0].setting) if self.known else None


def gather(folders: Iterable[Path]) -> list[Group]:
    """Read runs, and the runs in sweep folders, and group them; sorted, whatever the order of the folders.

    Raises:
        FileNotFoundError: for a folder that is not there, or holds no run.
        CorruptFileError: for a run that cannot be read.
    """
    runs = [read_run(folder) for folder in _run_folders(folders)]
    gathered: dict[tuple[Any, ...], list[Run]] = {}
    twins: dict[tuple[Any, ...], dict[Any, Run]] = {}
    for run in sorted(
        runs, key=lambda run: (run.name, *run.setting, _protocol(run), str(run.config.get("seed")).zfill(9))
    ):
        gathered.setdefault((run.name, _protocol(run), *run.setting), []).append(run)
        if run.of("sgd") or run.summary.get("sgd"):
            twins.setdefault((run.name, _protocol(run)), {}).setdefault(run.config.get("seed"), run)
    return [
        Group(*_labels(group[0], runs), tuple(group), twins.get(key[:2], {}), published(group[0].name))
        for key, group in gathered.items()
    ]


def comparison_rows(folders: Sequence[Path]) -> list[Row]:
    """What :func:`write_comparison` shows in its tables, as plain records.

    Raises:
        FileNotFoundError, CorruptFileError: as :func:`gather`.
    """
    return [row_of(group) for group in gather(folders)]


def row_of(group: Group) -> Row:
    """The means of a group, beside the paper's."""
    finished = group.finished
    results = [run.summary["grda"] for run in finished]
    if not results:  # the zeros so far
        results = [{k: v for k, v in run.of("grda")[-1].items() if k in _ZEROS} for run in group.runs if run.of("grda")]
    dense = [group.twins[seed].summary.get("sgd", {}) for seed in _seeds(finished) if seed in group.twins]
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
    """The means and deviations of a published row and its dense twin, those the paper has."""
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
    if not known.beyond:
        for key, theirs in known.protocol.items():
            if config.get(key, theirs) != theirs:
                flags.append(f"{key.replace('_', ' ')} {config[key]}, the paper's is {theirs}")
    if not config.get("paper_protocol"):
        flags.append("part of the training images held out for validation; the paper trains on all")
    return flags


def mean_and_deviation(stat: Stat) -> str:
    r"""Percent, and the deviation in points where there is one.

    >>> mean_and_deviation(Stat(0.90856, 0.0026, 10)), mean_and_deviation(Stat(0.7324, None, 1))
    ('90.86\xa0%\xa0±\xa00.26', '73.24\xa0%')
    """
    deviation = "" if stat.std is None else f" ± {100 * stat.std:.2f}".replace(" ", "\N{NO-BREAK SPACE}")
    return percent(stat.mean, 2) + deviation


def holds_out(config: Mapping[str, Any]) -> bool:
    """Whether the accuracy of each epoch is that on held-out training data; else it is that on the test data."""
    return not config.get("paper_protocol")


def _flags(group: Group) -> Iterable[str]:
    config, runs = group.config, group.runs
    waiting = [run for run in runs if not _is_finished(run)]
    if waiting:
        steps = [f"{run.metrics[-1]['network']} at epoch {run.metrics[-1]['epoch']}" for run in waiting if run.metrics]
        furthest = f" ({', '.join(steps)} of {config.get('epochs')})" if steps else ""
        yield f"{len(waiting)} of {len(runs)} runs not finished{furthest}"
    twice = [str(seed) for seed, count in Counter(_seeds(runs)).items() if count > 1]
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


def _run_folders(folders: Iterable[Path]) -> list[Path]:
    """The run folders among these and one level below, each once."""
    found: dict[Path, Path] = {}
    for folder in folders:
        below = (
            [] if (folder / "config.json").is_file() else sorted(path.parent for path in folder.glob("*/config.json"))
        )
        if folder.is_dir() and not below and not (folder / "config.json").is_file():
            raise FileNotFoundError(f"no run in the folder (no config.json, nor one a level below): {folder}")
        for run in below or [folder]:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _protocol(run: Run) -> tuple[Any, ...]:
    """Of strings, which compare; what is missing counts as 0."""
    return tuple(str(run.config.get(key) or 0) for key in _PROTOCOL)


def _labels(run: Run, runs: Sequence[Run]) -> tuple[str, str]:
    """The setting, and the protocol, in short: mu, and what else differs between the runs of a recipe."""
    others = [other for other in runs if other.name == run.name]
    strength = f"c {run.setting[0]:g}, " if len({other.setting[0] for other in others}) > 1 else ""
    words = []
    for at, (key, form) in enumerate(_PROTOCOL.items()):
        if len({_protocol(other)[at] for other in others}) > 1:
            words.append(form.format(run.config.get(key)))
    return f"{strength}μ {run.setting[1]:g}", ", ".join(words)


def _is_finished(run: Run) -> bool:
    return "sparsity_all" in run.summary.get("grda", {})


def _seeds(runs: Iterable[Run]) -> list[Any]:
    return [run.config.get("seed") for run in runs]


def _stat(records: Iterable[Mapping[str, Any]], key: str) -> Stat | None:
    values = [record[key] for record in records if key in record]
    if not values:
        return None
    finite = all(map(math.isfinite, values))
    return Stat(mean(values), stdev(values) if len(values) > 1 and finite else None, len(values))
