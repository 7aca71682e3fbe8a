"""What a command asks for: a recipe with other values, or several, and the folder they are trained in."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import torch

from ..data import Splits, TextSplits
from .paper import RECIPES
from .recipe import Recipe
from .run import create_run
from .sweep import create_sweep

__all__ = ["create_folder", "variants"]


def variants(
    name: str | None,
    values: Mapping[str, Any] | None = None,
    several: Mapping[str, Sequence[Any]] | None = None,
    *,
    paper_settings: bool = False,
) -> list[Recipe]:
    """The recipe of this name with ``values`` in place of its own, once for every combination of ``several``.

    Args:
        several: values of ``seed``, ``c`` and ``mu``.
        paper_settings: every pair (c, mu) of the paper.

    Raises:
        ValueError: for a name that no recipe has, and a value out of range.

    >>> [(recipe.seed, recipe.mu, recipe.epochs) for recipe in variants("digits", {"epochs": 5}, {"mu": [0.6, 0.7]})]
    [(0, 0.6, 5), (0, 0.7, 5)]
    """
    if name not in RECIPES:
        problem = "which recipe?" if name is None else f"unknown recipe: {name}"
        raise ValueError(f"{problem} (there is: {', '.join(RECIPES)})")
    base, several = replace(RECIPES[name](), **(values or {})), several or {}
    if base.files and not base.data and (place := os.environ.get("DIRPRUNE_DATA")):
        base = replace(base, data=str(Path(place).resolve()))  # so that a run knows where its data were
    if paper_settings and not base.settings:
        raise ValueError(f"invalid --paper-settings: {name} has none")
    if paper_settings and several.keys() & {"c", "mu"}:
        raise ValueError("--paper-settings are all pairs of c and mu: give neither")
    pairs = base.settings or () if paper_settings else product(several.get("c", [base.c]), several.get("mu", [base.mu]))
    chosen = dict.fromkeys(product(several.get("seed", [base.seed]), pairs))  # each once
    return [replace(base, seed=seed, c=c, mu=mu) for seed, (c, mu) in chosen]


def create_folder(
    out: Path | None, recipes: Sequence[Recipe], device: torch.device, splits: Splits | TextSplits | None = None
) -> Path:
    """Make the folder of a run, or of a sweep of several, and return it.

    Without ``out`` it is ``runs/NAME-seedN`` or ``runs/NAME-sweep``, or the first of ``-2``, ``-3``, ... that is not
    there. A run that ``torchrun`` starts again has its folder already. Of ``splits``, the data, the number of images is
    noted, which tells whether they can be the paper's.

    Raises:
        FileExistsError: where ``out`` is there.
    """
    first, alone = recipes[0], len(recipes) == 1
    name = f"{first.name}-seed{first.seed}" if alone else f"{first.name}-sweep"
    names = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in count(1))
    taken: list[Path] = []
    while out is None:
        folder = next(names)
        if not folder.exists():
            out = folder
        else:
            taken.append(folder)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        known = [folder for folder in (out, *reversed(taken)) if (folder / "config.json").exists()]
        if known:
            return known[0]
    noted = {}
    if splits is not None and first.files:
        held = 0 if first.paper_protocol else len(splits.validation)
        noted = {"training_images": len(splits.train) + held, "test_images": len(splits.test)}
    if alone:
        create_run(out, first, device, **noted)
    else:
        create_sweep(out, recipes, device, **noted)
    return out
