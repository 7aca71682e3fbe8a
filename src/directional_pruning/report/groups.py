"""Runs in folders and sweeps, gathered into groups of one recipe, setting and protocol."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_folder import Run, read_run
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
    twins: Mapping[str, Run]
    """By seed, the runs of the recipe and protocol that hold a dense baseline."""
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
        return [run for run in self.runs if is_finished(run)]

    @property
    def row(self) -> Setting | None:
        """What the paper has for the setting."""
        return self.known.setting(*self.runs[0].setting) if self.known else None


def gather(folders: Iterable[Path]) -> list[Group]:
    """Read runs, and the runs below other folders, and group them; sorted, whatever the order of the folders.

    Raises:
        FileNotFoundError: for a folder that is not there, or holds no run.
        CorruptFileError: for a run that cannot be read.
    """
    found = map(read_run, _run_folders(folders))
    # Others write a config.json too: what lies between two checkpoints, and other programs.
    runs = [run for run in found if "recipe" in run.config and "between" not in run.config]
    if not runs:
        raise FileNotFoundError("no run in the folders: their config.json are of something else")
    gathered: dict[tuple[Any, ...], list[Run]] = {}
    twins: dict[tuple[Any, ...], dict[str, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.name, *run.setting, _protocol(run), seed_of(run).zfill(10))):
        protocol = run.name, _protocol(run)
        gathered.setdefault((protocol, run.setting), []).append(run)
        if run.of("sgd") or run.summary.get("sgd"):
            twins.setdefault(protocol, {}).setdefault(seed_of(run), run)
    return [
        Group(*_labels(group[0], runs), tuple(group), twins.get(protocol, {}), published(group[0].name))
        for (protocol, _), group in gathered.items()
    ]


def seed_of(run: Run) -> str:
    """The seed, whatever the configuration has there."""
    return str(run.config.get("seed"))


def _run_folders(folders: Iterable[Path]) -> list[Path]:
    """The run folders among these and below them, each once, in the order of their names."""
    found: dict[Path, Path] = {}
    for folder in folders:
        runs = list(_runs_in(folder))
        if not runs:
            raise FileNotFoundError(f"no run in the folder (no config.json in it or below): {folder}")
        found |= {run.resolve(): run for run in runs}
    return [found[path] for path in sorted(found)]


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder, where it is a run or missing; else the runs below it at any depth."""
    if (folder / "config.json").is_file() or not folder.is_dir():
        yield folder
        return
    for below in folder.iterdir():
        # A link to anything but a run may lead back here.
        if (below / "config.json").is_file() or (below.is_dir() and not below.is_symlink()):
            yield from _runs_in(below)


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
            words.append(form.format(run.config.get(key) or _MISSING.get(key, 0)))
    return f"{strength}μ {run.setting[1]:g}", ", ".join(words)


def is_finished(run: Run) -> bool:
    """Whether it has a result."""
    return "sparsity_all" in run.summary.get("grda", {})
