"""The command's application object, exit codes and error messages."""

import errno
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

from ..files import CorruptFileError
from .signals import exit_code, handle_signals

try:
    import typer
    from typer.exceptions import TyperException
except ModuleNotFoundError as missing:
    raise SystemExit(f"dirprune needs {missing.name}: pip install 'directional-pruning[cli]'") from missing

__all__ = ["RUN", "app", "main", "one_line", "repeat_flags", "stop"]

app = typer.Typer(
    help="Train a neural network once and end with a sparse one: no retraining.\n\n"
    "Start with [bold]dirprune train digits[/bold], then open the report it names.",
    rich_markup_mode="rich",
    add_completion=False,
    no_args_is_help=True,
)
RUN = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]


def main() -> None:
    """Run the command.

    A user's mistake, or a file that cannot be read or written, ends it with one line and exit code 2; a diverged
    training with 1; a signal with 128 and its number.
    """
    _open_standard_files()
    with handle_signals():
        _run()


def _open_standard_files() -> None:
    """Open ``/dev/null`` for each standard file that is closed; else the next file would get its number, and texts."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _run() -> None:
    try:
        code = app(repeat_flags(sys.argv[1:]), standalone_mode=False)
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.flush()  # here, where a pipe that was closed can be reported
        if code == 130:
            raise KeyboardInterrupt
        stop("", code or 0)
    except TyperException as error:
        stop(error.format_message(), error.exit_code)
    except CorruptFileError as error:
        stop(str(error), 2)
    except ModuleNotFoundError as error:
        advice = "" if "pip install" in str(error) else ": pip install 'directional-pruning[all]'"
        stop(f"{error}{advice}", 2)
    except OSError as error:
        stop(one_line(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        stop("stopped", exit_code())
    except RuntimeError:  # for example: the first process has ended, and with it the connection
        _wait_for_rank_zero()
        raise


_TAKE_SEVERAL = ("--seed", "--seeds", "--c", "--mu", "--target")


def repeat_flags(args: list[str]) -> list[str]:
    """Write ``--mu 0.5 0.6`` as ``--mu 0.5 --mu 0.6``, the only form that Typer accepts.

    >>> repeat_flags(["train", "--mu", ".5", ".6", "digits", "7"])
    ['train', '--mu', '.5', '--mu', '.6', 'digits', '7']
    """
    repeated, flag = [], None
    for i, arg in enumerate(args):
        if flag is not None and args[i - 1] != flag and _is_number(arg):
            repeated.append(flag)
        elif arg in _TAKE_SEVERAL:
            flag = arg
        elif args[i - 1 : i] != [flag]:
            flag = None
        repeated.append(arg)
    return repeated


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def one_line(error: OSError) -> str:
    """The file and what is wrong with it; an error of a write that names no file is of standard output."""
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF):
        return f"standard output: {error.strerror}"
    return str(error)


def stop(message: str, code: int) -> NoReturn:
    """End the command; a message is one line on standard error."""
    # A signal comes to all processes of torchrun, or ends those that outlive the first: one line is enough.
    if message and (code < 128 or os.environ.get("LOCAL_RANK", "0") == "0"):
        if code < 128:
            _wait_for_rank_zero()
        with suppress(OSError):  # a closed terminal; the exit code remains
            print(f"dirprune: {' '.join(message.splitlines())}", file=sys.stderr)
    _close_output()
    sys.exit(code)


def _close_output() -> None:
    """Write what is left of the output; Python would complain about a pipe that was closed with a traceback."""
    for file in (sys.stdout, sys.stderr):
        try:
            if file is not None:
                file.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _wait_for_rank_zero() -> None:
    """Wait, unless this is the first of the processes that ``torchrun`` started on a machine.

    If the first process fails too, ``torchrun`` ends the others during the wait, and the message is printed once. A
    process that survives the wait has failed alone and prints its message.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which torchrun ends it, without a message
        time.sleep(10)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"dirprune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before a verb."""
