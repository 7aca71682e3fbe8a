"""Recipes: what to train and how, as functions that return a frozen dataclass."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ..data import Splits, digits
from ..models import digits_net
from ..optim import GRDA, prunable_groups

__all__ = ["RECIPES", "Recipe", "digits_recipe"]


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
    data: Callable[[torch.device], Splits]
    epochs: int
    batch_size: int
    lr: float
    c: float
    mu: float
    seed: int = 0
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
        """The optimizer of the dense twin (``"sgd"``: torch's own) or of the sparse network (``"grda"``)."""
        if network == "sgd":
            return SGD(model.parameters(), lr=self.lr)
        return GRDA(prunable_groups(model), lr=self.lr, c=self.c, mu=self.mu)

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


RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits_recipe}
