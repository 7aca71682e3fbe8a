"""Writing a file so that a reader never sees half of it, and naming one that cannot be read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class CorruptFileError(ValueError):
    """A file that is truncated, altered, or not what it should be; the message is one line and names the file."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; on success it becomes ``path``, on failure the old file stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as beside:
    ...         _ = beside.write_text("whole")
    ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
    [('note.txt', 'whole')]
    """
    path = Path(path).resolve()  # so that a symbolic link stays one
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        # Without the flush to disk a power cut can leave the new name on an empty file.
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.filename == str(beside):
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write an object as JSON; on failure the old file stays."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")


def parse_json(data: bytes) -> dict[str, Any]:
    """The object that ``data`` holds as JSON.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ValueError(f"not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
