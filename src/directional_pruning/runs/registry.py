"""All recipes by name, and their variants with other values."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from . import paper, small
from .recipe import Recipe

__all__ = ["RECIPES", "variants"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    make().name: make
    for make in (
        small.digits_recipe,
        small.chars_recipe,
        paper.vgg16_cifar10_recipe,
        paper.wrn28x10_cifar10_recipe,
        paper.wrn28x10_cifar100_recipe,
        paper.resnet50_imagenet_recipe,
        paper.resnet50_imagenet_fixed_recipe,
        paper.vgg16_cifar10_modern_recipe,
        paper.wrn28x10_cifar10_modern_recipe,
        paper.wrn28x10_cifar100_modern_recipe,
        paper.resnet50_imagenet_modern_recipe,
    )
}


def variants(
    name: str | None,
    values: Mapping[str, Any] | None = None,
    several: Mapping[str, Sequence[Any]] | None = None,
    *,
    paper_settings: bool = False,
) -> list[Recipe]:
    """The recipe of this name with ``values`` in place of its own, once for every combination of ``several``.

    Args:
        several: values of ``seed``, ``c``, ``mu`` and ``target``; a target goes with neither c nor mu.
        paper_settings: every pair (c, mu) of the paper.

    Raises:
        ValueError: for a name that no recipe has, a value out of range, and values that exclude each other.

    >>> [(recipe.seed, recipe.mu, recipe.epochs) for recipe in variants("digits", {"epochs": 5}, {"mu": [0.6, 0.7]})]
    [(0, 0.6, 5), (0, 0.7, 5)]
    """
    if name not in RECIPES:
        problem = "which recipe?" if name is None else f"unknown recipe: {name}"
        nearest = get_close_matches((name or "").lower(), RECIPES, n=1)
        guess = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"{problem} ({guess}there is: {', '.join(RECIPES)})")
    base, several = replace(RECIPES[name](), **(values or {})), several or {}
    if base.dataset.files and not base.data and (place := os.environ.get("DIRPRUNE_DATA")):
        base = replace(base, data=str(Path(place).resolve()))  # so that a run notes where its data were
    if paper_settings and not base.settings:
        raise ValueError(f"invalid --paper-settings: {name} has none")
    if paper_settings and several.keys() & {"c", "mu", "target"}:
        raise ValueError("--paper-settings are all pairs of c and mu: give neither, and no target")
    if several.keys() & {"c", "mu"} and "target" in several:
        raise ValueError("give --target, or --c and --mu: a target sets the threshold in their place")
    pairs = base.settings if paper_settings else product(several.get("c", [base.c]), several.get("mu", [base.mu]))
    # Without repetitions.
    chosen = dict.fromkeys(product(several.get("seed", [base.seed]), pairs, several.get("target", [base.target])))
    return [replace(base, seed=seed, c=c, mu=mu, target=target) for seed, (c, mu), target in chosen]
