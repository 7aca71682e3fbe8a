"""``dirprune`` and ``python -m directional_pruning``, as ``torchrun -m`` wants it."""

import signal


def main() -> None:
    """Run the command."""
    # Its imports take a second, in which Ctrl-C would print a traceback. The command then handles signals itself.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
