"""Write the epochs of a training to its run, and read those that another process writes."""

import json
from collections.abc import Callable
from pathlib import Path

from ..files import CorruptFileError, append, parse_json, replacing
from ..run_folder import METRICS, NETWORKS, Record, read_metrics

__all__ = ["check_metrics", "metrics_writer", "read_new_metrics"]


def metrics_writer(folder: Path, network: str, epochs: int) -> Callable[[Record], None]:
    """A function that adds a record of a network, as one line, to the network's metrics and to the run's.

    The first record replaces the network's old file, because a resumed training reports the past epochs again.
    """
    path, new = folder / network / METRICS, True

    def write(record: Record) -> None:
        nonlocal new
        line = json.dumps({"network": network, "epochs": epochs, **record}) + "\n"
        if new:
            with replacing(path) as beside:
                beside.write_text(line)
        else:
            append(path, line.encode())
        new = False
        parts = (folder / name / METRICS for name in NETWORKS)
        with replacing(folder / METRICS) as beside:
            beside.write_bytes(b"".join(part.read_bytes() for part in parts if part.exists()))

    return write


def read_new_metrics(folder: Path, network: str, start: int) -> tuple[list[Record], int]:
    """The epochs of a network that were written after the first ``start`` bytes, and where to start the next time.

    Raises:
        CorruptFileError: for a line that is not a record.
    """
    path = folder / network / METRICS
    if not path.exists() or (size := path.stat().st_size) == start:
        return [], start
    with open(path, "rb") as file:
        start = file.seek(start if size > start else 0)  # a shorter file was started anew
        lines, newline, _ = file.read().rpartition(b"\n")
    try:
        records = [record for record in map(parse_json, lines.splitlines()) if "epoch" in record]
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}") from None
    return records, start + len(lines) + len(newline)


def check_metrics(folder: Path) -> None:
    """Raise ``CorruptFileError`` for the metrics of a run or of its networks that cannot be read."""
    try:
        read_metrics(folder)
        for network in NETWORKS:
            read_new_metrics(folder, network, 0)
    except CorruptFileError as error:
        raise CorruptFileError(f"{error}; remove the file: training writes it again") from error
