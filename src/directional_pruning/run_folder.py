"""The format of a run folder: its files, their names, and how they are written, read and checked. No torch."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .files import CorruptFileError, parse_json, write_json

Record = dict[str, Any]

# The networks of a run, and the names of their folders: the dense baseline and the sparse network.
NETWORKS = ("sgd", "grda")
CONFIG = "config.json"
METRICS = "metrics.jsonl"  # one for the run, and one for each network in the network's folder
SUMMARY = "summary.json"  # written last: a run that has it is finished
SWEEP, TUNE = "sweep.json", "tune.json"
LOCK = "train.lock"  # while a process trains the run
STUDY_LOCK = "study.lock"  # while a process studies it
SPARSE_WEIGHTS = "model.sparse.safetensors"
# In the folder of a network:
CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"

_CURVES = ("lr", "threshold", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
_CURVES += ("sparsity_all", "sparsity_prunable", "sparsity_pruned", "norm_ratio", "seconds", "step", "epochs")
_RESULTS = ("test_accuracy", "test_loss", "train_loss", "sparsity_all", "sparsity_prunable", "sparsity_pruned")
_RESULTS += ("bytes", "zipped_bytes", "sparse_bytes", "bits_per_nonzero", "least_bits_per_nonzero", "seconds")


@dataclass(frozen=True)
class Finding:
    """One plain line about the network of a finished run, an entry of ``outcome`` in its summary."""

    network: str
    kind: str
    """The finding in a few words."""
    text: str
    problem: bool = True
    """Whether something went wrong; else a remark about the accuracies."""


@dataclass(frozen=True)
class Run:
    """The content of a run folder; a number that is null, NaN or infinite in the files is NaN here."""

    name: str
    config: Record
    metrics: list[Record]
    summary: Record
    diverged: dict[str, str]
    """For a network whose training diverged: the step, and the layer where it began."""

    @property
    def setting(self) -> tuple[float, float]:
        """The strength c and the growth mu; NaN where the configuration lacks them."""
        return _number(self.config.get("c"), "c"), _number(self.config.get("mu"), "mu")

    @property
    def target(self) -> float | None:
        """The share of zeros that was asked for, of the weights that are pruned; None where c and mu decide."""
        return self.config.get("target")

    @property
    def paper_protocol(self) -> bool:
        """Whether nothing was held out, so that the accuracy of each epoch is that on the test data."""
        return bool(self.config.get("paper_protocol"))

    def of(self, network: str) -> list[Record]:
        """The epochs of one network, in order."""
        return [record for record in self.metrics if record["network"] == network]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read and check configuration, metrics and summary; an unfinished run may lack the last two.

    Raises:
        FileNotFoundError: if there is no such folder, or no ``config.json`` in it.
        CorruptFileError: for content that no run writes, naming file and line.
    """
    folder = Path(folder)
    path = _config_file(folder)
    config = _parse(path.read_bytes(), str(path))
    _section(config, "versions", str(path))
    for key in ("c", "mu", "lr", "epochs", "batch_size", "samples", "training_images", "test_images"):
        _number(config.get(key), f"{path}: {key}")
    if config.get("target") is not None:
        _number(config["target"], f"{path}: target")
    metrics, diverged = read_metrics(folder)
    return Run(str(config.get("recipe") or folder.resolve().name), config, metrics, read_summary(folder), diverged)


def read_config(folder: Path) -> Record:
    """The configuration as it was written; ``CorruptFileError`` if it is not a JSON object."""
    path = _config_file(folder)
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise CorruptFileError(f"{path} is not a readable configuration: {error}") from None


def _config_file(folder: Path) -> Path:
    """The configuration of a run; ``FileNotFoundError`` says what a folder is that is no run."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"no such run folder: {folder}")
    if not path.is_file():
        if (folder / SWEEP).is_file():
            raise FileNotFoundError(f"{folder} is a sweep of several runs; give one of them: {sweep_runs(folder)[0]}")
        raise FileNotFoundError(f"not a run folder (no config.json): {folder}")
    return path


def versions(torch_version: str) -> Record:
    """The versions that a configuration notes."""
    return {
        "directional-pruning": version("directional-pruning"),
        "torch": torch_version,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def write_sweep(folder: Path, recipe: str, runs: Sequence[str]) -> None:
    """Write ``sweep.json`` with the names of the run folders; the last step, so a sweep that has it is complete."""
    write_json(folder / SWEEP, {"recipe": recipe, "runs": list(runs)})


def sweep_runs(folder: Path) -> list[Path]:
    """The run folders of a sweep; for any other folder a list of that folder only."""
    path = folder / SWEEP
    if not path.exists():
        return [folder]
    try:
        names = parse_json(path.read_bytes()).get("runs")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("runs is not a list of names")
    except ValueError as error:
        raise CorruptFileError(f"{path} is not a readable sweep: {error}") from error
    return [folder / name for name in names]


def read_metrics(folder: Path) -> tuple[list[Record], dict[str, str]]:
    """The epochs of both networks in order, and of each diverged network the reason.

    Of an epoch that a resumed run wrote twice the last record counts. An incomplete last line is left out.
    """
    path = folder / METRICS
    records: dict[tuple[int, int], Record] = {}
    diverged: dict[str, str] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            record = _parse(line, where)
        except CorruptFileError:
            # A complete line ends in a newline: what follows the last one is empty, or was cut off by a kill.
            if number < len(lines):
                raise
            continue
        network, epoch = record.get("network"), record.get("epoch")
        if network not in NETWORKS:
            raise CorruptFileError(f"{where}: invalid network: {network!r} (must be 'sgd' or 'grda')")
        if "diverged" in record:
            diverged[network] = str(record["diverged"])
            continue
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise CorruptFileError(f"{where}: invalid epoch: {epoch!r}")
        _check_numbers(record, _CURVES, where)
        records[NETWORKS.index(network), epoch] = record
    return [records[key] for key in sorted(records)], diverged


def read_summary(folder: Path) -> Record:
    """The results of a finished run, empty for an unfinished one; of the layers, those whose weights are prunable."""
    path = folder / SUMMARY
    if not path.is_file():
        return {}
    summary, where = _parse(path.read_bytes(), str(path)), str(path)
    _check_numbers(summary, ("seconds", "parameters"), where)
    for network in NETWORKS:
        _check_numbers(_section(summary, network, where), _RESULTS, f"{where}, {network}")
    for key in ("layers", "outcome"):
        objects = summary[key] = [] if summary.get(key) is None else summary[key]
        if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
            raise CorruptFileError(f"{where}: {key} is not a list of objects")
    for layer in summary["layers"]:
        _check_numbers(layer, ("total", "nonzeros"), f"{where}, layers")
    # Without counts a layer cannot be drawn; a comparison with NaN is false.
    layers = [x for x in summary["layers"] if "name" in x and x.get("total", 0) > 0 and x.get("nonzeros", -1) >= 0]
    summary["layers"] = [layer for layer in layers if layer.get("prunable", True)]
    histogram = summary["histogram"] = _section(summary, "histogram", where)
    _check_numbers(histogram, ("grda_zeros", "sgd_zeros"), f"{where}, histogram")
    for key in ("edges", *NETWORKS):
        values = histogram.get(key)
        if values is None:
            continue
        if not isinstance(values, list):
            raise CorruptFileError(f"{where}, histogram: {key} is not a list")
        values[:] = [_number(value, f"{where}, histogram: {key}") for value in values]
        if key != "edges" and len(values) + 1 != len(histogram.get("edges") or []):
            raise CorruptFileError(f"{where}, histogram: {len(values)} counts of {key} do not fit the edges")
    return summary


def _parse(data: bytes, where: str) -> Record:
    try:
        return printable(parse_json(data))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{where}: {error}") from None


def printable(value: Any) -> Any:
    """Replace characters that no page or figure can show: control characters, lone surrogates."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def _section(record: Record, key: str, where: str) -> Record:
    """The object under ``key``, empty if there is none."""
    section = {} if record.get(key) is None else record[key]
    if not isinstance(section, dict):
        raise CorruptFileError(f"{where}: {key} is not an object")
    return section


def _check_numbers(record: Record, keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if key in record:
            record[key] = _number(record[key], f"{where}: {key}")


def _number(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CorruptFileError(f"{where}: not a number: {value!r}")
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan
