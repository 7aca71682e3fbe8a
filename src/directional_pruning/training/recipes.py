"""Recipes: what to train and how, as functions that return a frozen dataclass."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ..data import Splits, TextSplits, chars, digits
from ..models import chars_net, digits_net
from ..optim import GRDA, Directional, prunable_groups
from .fit import cosine_schedule, paper_schedule

__all__ = ["RECIPES", "Recipe", "chars_recipe", "digits_recipe"]

_ADAMW = partial(AdamW, weight_decay=0.1, fused=True)


@dataclass(frozen=True)
class Recipe:
    """A network, its data and the hyper-parameters; derive variants with ``dataclasses.replace``.

    Raises:
        ValueError: for a hyper-parameter out of range, naming it and its value.

    >>> from dataclasses import replace
    >>> replace(digits_recipe(), epochs=3).epochs
    3
    """

    name: str
    summary: str
    model: Callable[[], nn.Module]
    data: Callable[[torch.device], Splits | TextSplits]
    epochs: int
    batch_size: int
    lr: float
    c: float
    mu: float
    seed: int = 0
    base: Callable[..., Optimizer] = SGD
    """The dense twin's optimizer, called with parameters and ``lr``; the sparse network's too, made to prune."""
    skip: tuple[str, ...] = ("norm", "bias")
    """What is not pruned, as for :func:`~directional_pruning.prunable_groups`."""
    schedule: Callable[[int, int], float] = paper_schedule
    """Factor of the rate in an epoch (from 0) of so many."""
    threads: int | None = None
    """CPU threads that suit the network's size; None leaves torch's choice."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"invalid {name}: {getattr(self, name)} (must be >= {least})")
        if self.seed >= 2**32:
            raise ValueError(f"invalid seed: {self.seed} (must be < 2**32)")
        # The optimizer's own checks, now rather than after the dense twin has trained.
        GRDA([torch.empty(0)], lr=self.lr, c=self.c, mu=self.mu)

    def optimizer(self, model: nn.Module, network: str) -> Optimizer:
        """The optimizer of the dense twin (``"sgd"``: the base alone) or of the sparse network (``"grda"``)."""
        if network == "sgd":
            return self.base(model.parameters(), lr=self.lr)
        groups = prunable_groups(model, skip=self.skip)
        if self.base is SGD:
            return GRDA(groups, lr=self.lr, c=self.c, mu=self.mu)
        # A base whose steps are as large as the rate, not the gradient, cannot restore what survivors lose at power 1.
        return Directional(self.base(groups, lr=self.lr), c=self.c, mu=self.mu, power=4)

    def hyperparameters(self) -> dict[str, Any]:
        """The plain values: what ``config.json`` holds and what the command's flags may override."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type in (int, float)}


def digits_recipe() -> Recipe:
    """Handwritten digits of 8 x 8 pixels on three convolutions: about 92 % zeros in half a minute on two cores."""
    return Recipe(
        name="digits",
        summary="8 x 8 handwritten digits, three convolutions; about half a minute on two cores",
        model=digits_net,
        data=digits,
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
        model=chars_net,
        data=chars,
        epochs=30,
        batch_size=16,
        lr=4e-3,
        c=0.8,
        mu=1.0,
        base=_ADAMW,
        skip=("norm", "bias", "embedding", "position.*", "head.*"),
        schedule=cosine_schedule,
        threads=1,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits_recipe, "chars": chars_recipe}
