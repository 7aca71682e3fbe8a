"""Writing files and locking folders: a full disk, a killed process, two processes."""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from directional_pruning.files import append, locked, replacing, write_json, write_with


@pytest.fixture
def small_files():
    """Files may have 1000 bytes: a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "torch.save": lambda path: write_with(path, lambda file: torch.save({"w": torch.ones(3000)}, file)),
    "torch.save of many": lambda path: write_with(path, lambda file: torch.save([torch.ones(1)] * 500, file)),
    "numpy.savez": lambda path: write_with(path, lambda file: np.savez(file, x=np.ones(3000))),
    "json": lambda path: write_json(path, {"x": "y" * 3000}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, small_files, writer):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as error:
        WRITERS[writer](path)
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_writer_writes_is_what_the_file_holds(tmp_path):
    expected = io.BytesIO()
    np.savez(expected, x=np.arange(5000))
    write_with(tmp_path / "file", lambda file: np.savez(file, x=np.arange(5000)))
    assert (tmp_path / "file").read_bytes() == expected.getvalue()
    write_with(tmp_path / "file", lambda file: torch.save(torch.arange(5000), file))
    assert torch.equal(torch.load(tmp_path / "file"), torch.arange(5000))


def test_ctrl_c_in_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_with(path, lambda file: (file.write(b"half"), signal.raise_signal(signal.SIGINT)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path, small_files):
    path = tmp_path / "lines"
    append(path, b"x" * 900)
    with pytest.raises(OSError, match="File too large") as error:
        append(path, b"y" * 200)
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"x" * 900


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    def write():
        with replacing(tmp_path / "file") as beside:
            beside.write_text("new")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(PermissionError) as error:
        write()
    assert error.value.filename == str(tmp_path / "file")


def test_a_missing_folder_is_named_with_the_file_and_not_with_a_temporary_one(tmp_path):
    path = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError) as error:
        write_with(path, lambda file: file.write(b"new"))
    assert error.value.filename == str(path)


HOLD = """
import sys
from pathlib import Path
from directional_pruning.files import locked
with locked(Path(sys.argv[1]), "lock"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_lock_names_its_process_and_ends_with_it(tmp_path):
    other = hold(tmp_path)
    with pytest.raises(BlockingIOError, match=f"in use by process {other.pid} on ") as error, locked(tmp_path, "lock"):
        pass
    assert error.value.filename == str(tmp_path)
    other.kill()
    other.communicate()
    with locked(tmp_path, "lock"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_waits_for_what_a_killed_process_left(tmp_path):
    """A process that reads data outlives its parent for seconds, and with it the lock."""
    other = hold(tmp_path)
    (tmp_path / "lock").write_text((tmp_path / "lock").read_text().replace(str(other.pid), str(2**22 + 1)))
    os.kill(other.pid, signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {other.pid}"])
    with locked(tmp_path, "lock"):
        assert killer.wait() == 0
    other.communicate()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    import filelock

    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="this file system has no locks"), locked(tmp_path, "lock"):
        pass
