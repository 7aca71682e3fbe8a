"""Small recipes that train within minutes on a CPU: digits and characters."""

from functools import partial

import torch
from torch.optim import AdamW

from ..data import Splits, TextSplits, chars, digits
from ..training import cosine_schedule
from .recipe import Dataset, Recipe

__all__ = ["chars_recipe", "digits_recipe"]


def _load_digits(device: torch.device, recipe: Recipe) -> Splits:
    return digits(device)


def _load_chars(device: torch.device, recipe: Recipe) -> TextSplits:
    return chars(device)


_DIGITS = Dataset(_load_digits, "scikit-learn's digits, 8 x 8 pixels in [0, 1]")
_CHARS = Dataset(_load_chars, "Sources of Python's standard library, windows of 64 characters")
_ADAMW = partial(AdamW, fused=True)


def digits_recipe() -> Recipe:
    """Handwritten digits of 8 x 8 pixels on three convolutions: about 92 % zeros in half a minute on two cores."""
    return Recipe(
        name="digits",
        summary="8 x 8 handwritten digits, three convolutions; about half a minute on two cores",
        dataset=_DIGITS,
        model="digits_net",
        num_classes=10,
        epochs=100,
        batch_size=64,
        lr=0.1,
        c=0.01,
        mu=0.7,
        # The layers are so small that threads mostly wait for each other, very long where other programs run too.
        threads=1,
    )


def chars_recipe() -> Recipe:
    """The next character of Python's own library, by a transformer of three layers under AdamW."""
    return Recipe(
        name="chars",
        summary="characters of Python's standard library, a small transformer under AdamW; minutes on one core",
        dataset=_CHARS,
        model="chars_net",
        num_classes=96,
        epochs=30,
        batch_size=16,
        lr=4e-3,
        c=0.8,
        mu=1.0,
        weight_decay=0.1,
        base=_ADAMW,
        skip=("norm", "bias", "embedding", "position.*", "head.*"),
        schedule=cosine_schedule,
        threads=1,
    )
