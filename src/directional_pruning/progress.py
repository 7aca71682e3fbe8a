"""How long work tells its caller that it advances: one protocol for training, sweeps and studies."""

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Progress", "ignore_progress"]


class Progress(Protocol):
    """A function that is called each time a part of the work is done."""

    def __call__(self, task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
        """Take note of the progress of one task.

        Args:
            task: what is being done; the same text from its first call to its last.
            done, total: how many parts are finished, and how many there are; ``total`` may grow.
            record: the numbers that belong to the part just finished, such as an epoch's loss.
        """


def ignore_progress(task: str, done: int, total: int, record: Mapping[str, Any] | None = None) -> None:
    """The :class:`Progress` of a caller who does not ask."""
