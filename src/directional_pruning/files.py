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
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as beside:
    ...     _ = beside.write_text("whole")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('whole', ['note.txt'])
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        # Without the flush to disk a power cut can leave the new name on an empty file.
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
