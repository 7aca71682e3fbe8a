"""Writing a file so that a reader never sees half of it, naming one that cannot be used, and locking a folder."""

import errno
import io
import json
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        with naming(path, str(beside)):
            beside.unlink(missing_ok=True)  # of a killed process that had the same number
            yield beside
            # Without the flush to disk a power cut can leave the new name on an empty file.
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, other: str | None = None) -> Iterator[None]:
    """Give the name of a file to an ``OSError`` that has none, as that of a failed write, or the name ``other``."""
    try:
        yield
    except OSError as error:
        # One without a number has a message of its own.
        if error.errno is not None and (error.filename is None or str(error.filename) == other):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_with(path: str | os.PathLike[str], save: Callable[[io.FileIO], object]) -> None:
    """Let ``save(file)`` write a file; on failure the old file stays.

    For writers that raise errors of their own for a full disk, or end the process: ``torch.save``, ``numpy.savez``.

    Raises:
        OSError: for a write that failed; it names the file.
    """
    with replacing(path) as beside, _PatientFile(beside, "wb") as file:
        try:
            save(file)
        finally:
            if file.error is not None:
                raise file.error


def append(path: str | os.PathLike[str], data: bytes) -> None:
    """Add ``data`` to the end of a file; on failure the file stays as it was.

    Raises:
        OSError: for a write that failed; it names the file.
    """
    with naming(Path(path)), _PatientFile(path, "ab") as file:
        size = file.seek(0, os.SEEK_END)
        file.write(data)
        if file.error is not None:
            with suppress(OSError):
                file.truncate(size)
            raise file.error


class _PatientFile(io.FileIO):
    """A file whose ``write`` raises nothing and notes the first error.

    The destructor of torch's writer writes too, and an error there, or Ctrl-C, would abort the process.
    """

    error: BaseException | None = None

    def write(self, data: Any, /) -> int:
        size = 0
        try:
            rest = memoryview(data).cast("B")
            size = len(rest)
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except BaseException as error:
            self.error = error
        return size


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock on a folder, the file ``name`` in it; the lock ends with the process, however that ends.

    Where the file system has no locks, as some network file systems, it is a warning and no lock.

    Raises:
        BlockingIOError: if another process holds the lock; it names the folder and the process.
    """
    from filelock import FileLock, Timeout

    path = folder / name
    holder = _holder(path)
    # One that was killed a moment ago may have processes that read data; they end some seconds later.
    lock = FileLock(path, timeout=10 if _has_ended(holder) else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        message = f"in use by {holder or 'another process'}; wait until it ends, or stop it"
        raise BlockingIOError(errno.EAGAIN, message, str(folder)) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        message = f"{folder}: this file system has no locks; start no second process on this folder"
        warnings.warn(message, UserWarning, stacklevel=4)
        yield
        return
    try:
        with suppress(OSError):  # on a full disk the lock holds without a name
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    """What the process that holds a lock wrote into its file, if that can be read."""
    with suppress(OSError):  # none holds it, or Windows, where a locked file is not read
        match = re.match(r"process \d+ on \S{1,255}", path.read_text(errors="replace"))
        return match[0] if match else ""
    return ""


def _has_ended(holder: str) -> bool:
    """Whether the process of this name ran on this machine and does not any more."""
    _, number, _, host = holder.split() if holder else ("", "0", "", "")
    if host != socket.gethostname() or sys.platform == "win32":
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # it runs as another user
    return False


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
