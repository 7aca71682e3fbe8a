"""Saved results that let an interrupted study resume: arrays, measured rows, products of an operator, a state dict.

Each result is saved with the settings that it was computed with. Under other settings it is computed again.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import safetensors.torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from ..files import CorruptFileError, naming, parse_json, replacing, write_with
from ..progress import Progress

__all__ = ["SavedProducts", "SavedRows", "discard_outdated", "load_arrays", "save_arrays", "save_state"]

Rows = Sequence[Sequence[float]]

SECONDS_BETWEEN_WRITES = 1.0


def save_arrays(path: Path, /, **arrays: Any) -> None:
    """Write arrays and texts to an ``.npz`` file, atomically."""
    write_with(path, lambda file: np.savez(file, **arrays))


def load_arrays(path: Path, **settings: str | int) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file that contains these settings; empty for any other file or none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "result.npz"
    ...     save_arrays(path, x=[1.0, 2.0], seed=3)
    ...     [sorted(load_arrays(path, seed=seed)) for seed in (3, 4)]
    [['seed', 'x'], []]
    """
    broken = (OSError, KeyError, IndexError, ValueError, EOFError, TypeError, BadZipFile)
    with suppress(*broken), open(path, "rb") as file:
        content = np.load(file, allow_pickle=False)
        if all(content[name].tolist() == value for name, value in settings.items()):
            return {name: content[name] for name in content.files}
    return {}


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict to a ``.safetensors`` file, atomically."""
    with replacing(path) as beside:
        beside.write_bytes(safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))


def discard_outdated(path: Path, settings: Mapping[str, Any]) -> None:
    """Delete a file, unless ``settings.json`` beside it contains these settings; afterwards it does.

    Raises:
        CorruptFileError: for a ``settings.json`` that cannot be read.
    """
    record = path.with_name("settings.json")
    if _read_json(record).get("settings") != settings:
        path.unlink(missing_ok=True)
        _write_json(record, {"settings": settings})


class SavedRows:
    """Rows of measured values by task, in a JSON file with the settings.

    Raises:
        CorruptFileError: for a file that cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.json"
    ...     rows = SavedRows(path, {"points": 2})
    ...     rows.recorder("curve", 2, print)([(0.5, 0.1)])
    ...     rows.write()
    ...     SavedRows(path, {"points": 2}).of("curve"), SavedRows(path, {"points": 3}).of("curve")
    curve 0 2
    curve 1 2
    ([[0.5, 0.1]], ())
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings, self.written = path, settings, time.monotonic()
        content = _read_json(path)
        self.rows: dict[str, Rows] = content.get("rows", {}) if content.get("settings") == settings else {}

    def of(self, task: str) -> Rows:
        """The rows of a task that were measured earlier."""
        return self.rows.get(task, ())

    def recorder(self, task: str, total: int, on_progress: Progress) -> Callable[[Rows], None]:
        """A function to call with all rows of the task after each new one; it writes about once a second."""
        on_progress(task, len(self.of(task)), total)

        def record(rows: Rows) -> None:
            self.rows[task] = rows
            if time.monotonic() - self.written >= SECONDS_BETWEEN_WRITES:
                self.write()
            on_progress(task, len(rows), total)

        return record

    def write(self) -> None:
        """Write the rows of all tasks."""
        _write_json(self.path, {"settings": self.settings, "rows": self.rows})
        self.written = time.monotonic()


class SavedProducts(LinearOperator):
    """A linear operator whose products are saved in order: for the same vectors they are read, not computed.

    The file begins with a line of settings. A record for each product follows: the vector, its product, and a checksum
    of both. A damaged record, or one of other vectors, is computed again, and so are all after it.
    """

    def __init__(self, operator: LinearOperator, path: Path, settings: str, on_product: Callable[[int], None]) -> None:
        super().__init__(operator.dtype, operator.shape)
        self.operator, self.path, self.on_product, self.products = operator, path, on_product, 0
        self.header = settings.encode() + b"\n"
        with naming(path), open(path, "ab+") as file:  # creates a missing file
            file.seek(0)
            if file.read(len(self.header)) != self.header:
                file.truncate(0)
                file.write(self.header)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        v = np.ascontiguousarray(x.ravel(), dtype=self.dtype)
        length = 2 * v.nbytes
        start = len(self.header) + self.products * (length + 4)
        with naming(self.path), open(self.path, "rb+") as file:
            file.seek(start)
            record, checksum = file.read(length), file.read(4)
            if checksum == _checksum(record) and record[: v.nbytes] == v.tobytes():
                product = np.frombuffer(record[v.nbytes :], dtype=self.dtype)
            else:
                product = self.operator.matvec(v)
                file.truncate(start)  # an incomplete record, or the vectors of a machine that rounds differently
                file.seek(start)
                record = v.tobytes() + product.tobytes()
                file.write(record + _checksum(record))
        self.products += 1
        self.on_product(self.products)
        return product


def _checksum(record: bytes) -> bytes:
    return zlib.crc32(record).to_bytes(4, "little")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty without a file; its rows, if it has some, are lists of lists of numbers."""
    try:
        content = parse_json(path.read_bytes()) if path.exists() else {}
        for rows in dict(content.get("rows", {})).values():
            if not all(isinstance(row, list) and {type(x) for x in row} <= {int, float} for row in rows):
                raise ValueError("its rows are not lists of numbers")
    except (ValueError, TypeError) as error:
        raise CorruptFileError(f"{path} is not readable ({error}); remove it to start anew") from error
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(content))
