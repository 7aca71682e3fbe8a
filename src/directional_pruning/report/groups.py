"""Collect runs from folders and sweeps into groups of one recipe, setting and protocol."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_folder import Run, read_run
from .formatting import NAMES, percent
from .published import Published, Setting, published

# What two runs must share, beside recipe and setting, for their mean to mean something; and how to say it.
_PROTOCOL: dict[str, str] = {
    "epochs": "{} epochs",
    "lr": "rate {}",
    "batch_size": "batch {}",
    "samples": "{} samples",
    "training_images": "{} training images",
    "test_images": "{} test images",
    "paper_protocol": "paper protocol {}",
    "model": "{}",
    "accumulate": "batches in {} parts",
    "num_classes": "{} classes",
    "momentum": "momentum {}",
    "weight_decay": "decay {}",
    "label_smoothing": "smoothing {}",
    "precision": "{}",
}
_MISSING = {"samples": "all", "training_images": "unknown", "test_images": "unknown"}


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, setting and protocol, in the order of their seeds."""

    setting: str
    protocol: str
    runs: tuple[Run, ...]
    dense_runs: Mapping[str, Run]
    """By seed, the runs of the recipe and protocol that hold a dense baseline."""
    paper: Published | None

    @property
    def label(self) -> str:
        """Setting and protocol in short, as far as they differ from those of the other groups of its recipe."""
        return ", ".join(filter(None, (self.setting, self.protocol)))

    @property
    def epochs(self) -> float:
        """The length of training, or what there is of it where the files do not say."""
        numbers = [self.runs[0].config.get("epochs")]
        numbers += [record.get(key) for run in self.runs for record in run.metrics for key in ("epoch", "epochs")]
        return max(float(number or 0) for number in (1, *numbers) if math.isfinite(number or 0))

    @property
    def finished(self) -> list[Run]:
        """Those that have a result."""
        return [run for run in self.runs if is_finished(run)]

    @property
    def paper_row(self) -> Setting | None:
        """What the paper has for the setting; it has no targets."""
        run = self.runs[0]
        return self.paper.setting(*run.setting) if self.paper and run.target is None else None


def single_group(run: Run) -> Group:
    """A run as a group of one."""
    return Group(NAMES["grda"], "", (run,), {seed_of(run): run}, published(run.name))


def gather(folders: Iterable[Path]) -> list[Group]:
    """Read runs, and the runs below other folders, and group them; sorted, whatever the order of the folders.

    Raises ``FileNotFoundError`` where there is no run, ``CorruptFileError`` for one that cannot be read.
    """
    # Others write a config.json too: what lies between two checkpoints, and other programs.
    runs = map(read_run, _run_folders(folders))
    runs = [run for run in runs if "recipe" in run.config and "between" not in run.config]
    if not runs:
        raise FileNotFoundError("no run in the folders: their config.json are of something else")
    groups: dict[tuple[Any, ...], list[Run]] = {}
    dense_runs: dict[tuple[Any, ...], dict[str, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.name, *_setting(run), _protocol(run), seed_of(run).zfill(10))):
        protocol = run.name, _protocol(run)
        groups.setdefault((protocol, _setting(run)), []).append(run)
        if run.of("sgd") or run.summary.get("sgd"):
            dense_runs.setdefault(protocol, {}).setdefault(seed_of(run), run)
    return [
        Group(*_labels(group[0], runs), tuple(group), dense_runs.get(protocol, {}), published(group[0].name))
        for (protocol, _), group in groups.items()
    ]


def watched_accuracy(groups: Sequence[Group]) -> str:
    """The data of the accuracy in the epochs: test or validation, or both; training where no other is recorded.

    The paper's protocol holds nothing out: it watches the test data, and records them under the key of validation.
    """
    if not any("validation_accuracy" in record for group in groups for run in group.runs for record in run.metrics):
        return "training"
    protocols = {group.runs[0].paper_protocol for group in groups}
    return " or ".join(data for data, paper in (("test", True), ("validation", False)) if paper in protocols)


def seed_of(run: Run) -> str:
    """The seed, whatever the configuration has there."""
    return str(run.config.get("seed"))


def is_finished(run: Run) -> bool:
    """Whether it has a result."""
    return "sparsity_all" in run.summary.get("grda", {})


def _run_folders(folders: Iterable[Path]) -> list[Path]:
    """The run folders among these and below them, each once, in the order of their names."""
    paths: dict[Path, Path] = {}
    for folder in folders:
        runs = list(_runs_in(folder))
        if not runs:
            raise FileNotFoundError(f"no run in the folder (no config.json in it or below): {folder}")
        paths |= {run.resolve(): run for run in runs}
    return [paths[path] for path in sorted(paths)]


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder, where it is a run or missing; else the runs below it at any depth."""
    if (folder / "config.json").is_file() or not folder.is_dir():
        yield folder
        return
    for below in folder.iterdir():
        # A link to anything but a run may lead back here.
        if (below / "config.json").is_file() or (below.is_dir() and not below.is_symlink()):
            yield from _runs_in(below)


def _setting(run: Run) -> tuple[float, ...]:
    """What decides the zeros: the target, or c and mu."""
    return (-1.0, *run.setting) if run.target is None else (run.target,)


def _protocol(run: Run) -> tuple[Any, ...]:
    """Of strings, which compare; what is missing counts as 0."""
    return tuple(str(run.config.get(key) or 0) for key in _PROTOCOL)


def _labels(run: Run, runs: Sequence[Run]) -> tuple[str, str]:
    """The setting, and the protocol, in short: mu or the target, and what else differs between a recipe's runs."""
    others = [other for other in runs if other.name == run.name]
    strength = len({other.setting[0] for other in others if other.target is None}) > 1
    setting = f"c {run.setting[0]:g}, " * strength + f"μ {run.setting[1]:g}"
    if run.target is not None:
        setting = f"target {percent(run.target)}"
    words = []
    for at, (key, form) in enumerate(_PROTOCOL.items()):
        if len({_protocol(other)[at] for other in others}) > 1:
            words.append(form.format(run.config.get(key) or _MISSING.get(key, 0)))
    return setting, ", ".join(words)
