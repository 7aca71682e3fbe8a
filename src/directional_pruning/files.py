"""Writing a file so that a reader never sees half of it, and naming one that cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
