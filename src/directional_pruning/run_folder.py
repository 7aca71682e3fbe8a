"""Reading a run folder into plain records, checked, so that drawing need not be careful."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import CorruptFileError

Record = dict[str, Any]

NETWORKS = ("sgd", "grda")
_CURVES = ("lr", "threshold", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
_CURVES += ("sparsity_all", "sparsity_prunable", "norm_ratio", "seconds", "step", "epochs")
_RESULTS = ("test_accuracy", "test_loss", "train_loss", "sparsity_all", "sparsity_prunable")
_RESULTS += ("bytes", "zipped_bytes", "sparse_bytes", "bits_per_nonzero", "least_bits_per_nonzero", "seconds")


@dataclass(frozen=True)
class Run:
    """What a run folder says; a number that is null, NaN or infinite in the files is NaN here."""

    name: str
    config: Record
    metrics: list[Record]
    summary: Record
    diverged: dict[str, str]
    """For a network that left the numbers: at which step, and where it began."""

    @property
    def setting(self) -> tuple[float, float]:
        """The strength c and the growth mu; NaN for what the configuration does not say."""
        return _number(self.config.get("c"), "c"), _number(self.config.get("mu"), "mu")

    @property
    def paper_protocol(self) -> bool:
        """Whether nothing was held out, so that the accuracy of each epoch is that on the test data."""
        return bool(self.config.get("paper_protocol"))

    def of(self, network: str) -> list[Record]:
        """The epochs of one network, in order."""
        return [record for record in self.metrics if record["network"] == network]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read ``config.json``, ``metrics.jsonl`` and ``summary.json``; a run under way may lack the last two.

    An epoch that a resumed run wrote twice counts once, as written last. A last line cut short is left out. Raises
    ``FileNotFoundError`` if there is no such folder or no ``config.json`` in it, and ``CorruptFileError``, naming file
    and line, for what a run does not write.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such run folder: {folder}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"not a run folder (no config.json): {folder}")
    config = _read_object(folder / "config.json")
    _section(config, "versions", f"{folder / 'config.json'}")
    for key in ("c", "mu", "lr", "epochs", "batch_size", "samples", "training_images", "test_images"):
        _number(config.get(key), f"{folder / 'config.json'}: {key}")
    name = str(config.get("recipe") or folder.resolve().name)
    metrics, diverged = _read_metrics(folder / "metrics.jsonl")
    return Run(name, config, metrics, _read_summary(folder / "summary.json"), diverged)


def _read_metrics(path: Path) -> tuple[list[Record], dict[str, str]]:
    records: dict[tuple[int, int], Record] = {}
    diverged: dict[str, str] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        # A whole line ends in a newline, so what follows the last one is nothing, or what a killed run left.
        cut_short = number == len(lines)
        where = f"{path}, line {number}"
        try:
            record = _parse(line, where)
        except CorruptFileError:
            if cut_short:
                continue
            raise
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


def _read_summary(path: Path) -> Record:
    if not path.is_file():
        return {}
    summary, where = _read_object(path), str(path)
    _check_numbers(summary, ("seconds", "parameters"), where)
    for network in NETWORKS:
        _check_numbers(_section(summary, network, where), _RESULTS, f"{where}, {network}")
    layers = [] if summary.get("layers") is None else summary["layers"]
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise CorruptFileError(f"{where}: layers is not a list of objects")
    for layer in layers:
        _check_numbers(layer, ("total", "nonzeros"), f"{where}, layers")
    # Only prunable layers whose counts are known; a comparison with NaN is false.
    layers = [x for x in layers if "name" in x and x.get("total", 0) > 0 and x.get("nonzeros", -1) >= 0]
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


def _read_object(path: Path) -> Record:
    return _parse(path.read_bytes(), str(path))


def _parse(data: bytes, where: str) -> Record:
    try:
        value = printable(json.loads(data.decode()))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise CorruptFileError(f"{where}: not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise CorruptFileError(f"{where}: not a JSON object")
    return value


def printable(value: Any) -> Any:
    """Replace the characters that no page or picture can hold: control characters, lone surrogates."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def _section(record: Record, key: str, where: str) -> Record:
    """The object under ``key``, empty if there is none."""
    section = record.get(key)
    if section is None:
        return {}
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
