"""Signals that end the command: Ctrl-C, SIGTERM of a scheduler or a container, SIGHUP of a closed terminal."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_signals", "exit_code", "handle_signals"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_received: list[int] = []
_deferred = False


@contextmanager
def handle_signals() -> Iterator[None]:
    """Make every signal that ends the command a ``KeyboardInterrupt``; one that was ignored stays so."""
    _received.clear()
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                earlier[number] = signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal came; only a second one raises ``KeyboardInterrupt``."""
    global _deferred
    _deferred = True
    try:
        yield lambda: bool(_received)
    finally:
        _deferred = False


def exit_code() -> int:
    """What a shell reports for a process that this signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _handle(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    # torchrun passes Ctrl-C on to processes that got it already, and kills those that take too long.
    if not _deferred or (len(_received) > 1 and "TORCHELASTIC_RUN_ID" not in os.environ):
        raise KeyboardInterrupt
