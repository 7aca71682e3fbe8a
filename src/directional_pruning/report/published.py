"""The paper's tables and the points of its figures, from ``published.json``; shares are fractions.

Each recipe names its sources: numbers read from the authors' result files, or decoded from a vector figure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Series(NamedTuple):
    """Points of one published line: epochs, or sparsities, and the values there."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Setting:
    """One published row: the mean over its seeds at the end, the sample deviation where there are several, curves."""

    c: float
    mu: float
    seeds: int
    sparsity: float
    test_accuracy: float
    sparsity_std: float | None = None
    test_accuracy_std: float | None = None
    threshold: float | None = None
    """At the end of training."""
    note: str = ""
    curves: Mapping[str, Series] = field(default_factory=dict)
    """By name: ``train_loss``, ``train_accuracy``, ``test_accuracy``, ``sparsity``, ``norm_ratio``; over epochs."""


class Layers(NamedTuple):
    """Zeros of each layer's weights under several methods."""

    names: tuple[str, ...]
    methods: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Published:
    """The paper's results for one recipe."""

    recipe: str
    modern: bool
    """Whether asked for the recipe's ``-modern`` variant, which the paper does not have."""
    parameters: int
    images: tuple[int, int]
    """Of the training data and of the test data."""
    epochs: int
    protocol: Mapping[str, float | str]
    """Network, batch size, rate and the like, under their names in ``config.json``."""
    dense: Setting | None
    settings: tuple[Setting, ...]
    others: tuple[Setting, ...]
    """gRDA on the same network and data, under another schedule of the rate."""
    frontier: Mapping[str, Series]
    """Other methods: test accuracy over sparsity."""
    layers: Layers | None
    sources: Mapping[str, str]

    def setting(self, c: float, mu: float) -> Setting | None:
        """The row of this strength and growth, if the paper has it.

        >>> published("vgg16-cifar10").setting(0.0005, 0.6).sparsity
        0.90476
        """
        return next((row for row in self.settings if abs(row.c - c) < 1e-9 and abs(row.mu - mu) < 1e-9), None)


@cache
def published(recipe: str) -> Published | None:
    """What the paper has for a recipe; for its ``-modern`` variant what it has for the base.

    >>> published("digits"), published("vgg16-cifar10-modern").modern
    (None, True)
    """
    content = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))["recipes"]
    base = recipe.removesuffix("-modern")
    if base not in content:
        return None
    record = {"others": [], "frontier": {}, "layers": None} | content[base]
    if recipe.startswith("resnet50-imagenet"):  # one network on one data set, whatever the schedule of the rate
        record |= {key: content["resnet50-imagenet"][key] for key in ("others", "frontier", "layers")} | content[base]
    layers = record["layers"]
    return Published(
        recipe=base,
        modern=recipe != base,
        images=tuple(record["images"]),
        dense=_setting(record["twin"]) if "twin" in record else None,
        settings=tuple(map(_setting, record["settings"])),
        others=tuple(map(_setting, record["others"])),
        frontier=_series(record["frontier"]),
        layers=layers and Layers(tuple(layers["names"]), {k: np.array(v) for k, v in layers["methods"].items()}),
        **{key: record[key] for key in ("parameters", "epochs", "protocol", "sources")},
    )


def _setting(record: dict[str, Any]) -> Setting:
    values: dict[str, Any] = {**record, "curves": _series(record.get("curves", {}))}
    return Setting(**values)


def _series(records: Mapping[str, Any]) -> dict[str, Series]:
    return {name: Series(*(np.array(part, dtype=float) for part in points)) for name, points in records.items()}
