"""One process trains a run: locks, and what a killed process left."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..files import locked
from ..run_folder import CONFIG, LOCK, METRICS, SPARSE_WEIGHTS, SUMMARY
from ..training import SINGLE_PROCESS, Processes
from .metrics import check_metrics

__all__ = ["baseline_run", "locked_runs"]


@contextmanager
def locked_runs(folders: Sequence[Path], processes: Processes = SINGLE_PROCESS) -> Iterator[None]:
    """Hold the locks of runs, and of those whose dense baselines they share; of ``processes`` the first one does.

    Raises:
        BlockingIOError: if another process trains one of them; it names run and process.
        CorruptFileError: for a ``metrics.jsonl`` that cannot be read: training would write over it.
    """
    with ExitStack() as locks:
        if processes.first:
            for folder in dict.fromkeys(run for each in folders for run in (each, baseline_run(each))):
                locks.enter_context(locked(folder, LOCK))
                check_metrics(folder)
                for name in (CONFIG, METRICS, SUMMARY, SPARSE_WEIGHTS):
                    for unfinished in folder.glob(f".{name}.*.tmp"):  # of a process that was killed while it wrote
                        unfinished.unlink(missing_ok=True)
        yield


def baseline_run(folder: Path) -> Path:
    """The run that trains the dense baseline of this one; the run itself unless it shares another's."""
    link = folder / "sgd"
    return Path(os.path.normpath(folder / link.readlink())).parent if link.is_symlink() else folder
