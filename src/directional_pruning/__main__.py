"""``python -m directional_pruning``: the command ``dirprune``, as ``torchrun -m`` wants it."""

from .cli import main

if __name__ == "__main__":
    main()
