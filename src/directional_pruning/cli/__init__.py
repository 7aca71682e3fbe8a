"""The command ``dirprune``: thin verbs over the library. Heavy imports live in the functions, so help is instant."""

from .app import main

# Each module adds its verbs, in the order of the help.
from . import train, tune, recipes, compare, studies, ship  # noqa: F401  # isort: skip

__all__ = ["main"]
