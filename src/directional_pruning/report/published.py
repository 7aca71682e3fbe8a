"""What the paper published, to compare runs with: its tables and the points of its figures, from ``published.json``.

All shares are fractions. Each recipe names its sources: numbers read from the authors' result files, or decoded from a
vector figure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MODERN = "-modern"


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


@dataclass(frozen=True)
class Layers:
    """Zeros of each layer's weights under several methods."""

    names: tuple[str, ...]
    methods: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Published:
    """What the paper says of one recipe; ``beyond`` where it is the recipe's base and not the recipe itself."""

    recipe: str
    beyond: bool
    parameters: int
    images: tuple[int, int]
    """Of the training data and of the test data."""
    epochs: int
    protocol: Mapping[str, float | str]
    """Network, batch size, rate and the like, under their names in ``config.json``."""
    twin: Setting | None
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
    """What the paper has for a recipe; for its ``-modern`` variant what it has for the base, marked ``beyond``.

    >>> published("digits"), published("vgg16-cifar10-modern").beyond
    (None, True)
    """
    content = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))["recipes"]
    record = content.get(recipe.removesuffix(_MODERN))
    if record is None:
        return None
    if recipe.startswith("resnet50-imagenet"):  # one network on one data set, whatever the schedule of the rate
        record = {key: content["resnet50-imagenet"][key] for key in ("others", "frontier", "layers")} | record
    layers = record.get("layers")
    if layers is not None:
        methods = {name: np.array(zeros) for name, zeros in layers["methods"].items()}
        layers = Layers(tuple(layers["names"]), methods)
    return Published(
        recipe=recipe.removesuffix(_MODERN),
        beyond=recipe.endswith(_MODERN),
        parameters=record["parameters"],
        images=tuple(record["images"]),
        epochs=record["epochs"],
        protocol=record["protocol"],
        twin=_setting(record["twin"]) if "twin" in record else None,
        settings=tuple(map(_setting, record["settings"])),
        others=tuple(map(_setting, record.get("others", []))),
        frontier=_series(record.get("frontier", {})),
        layers=layers,
        sources=record["sources"],
    )


def published_row(recipe: str, c: float, mu: float) -> dict[str, Any] | None:
    """The figures of one setting to print beside a finished run, fractions; ``None`` where the paper has none.

    >>> published_row("wrn28x10-cifar10", 0.001, 0.65)
    {'sparsity': 0.982877, 'test_accuracy': 0.94531, 'twin_accuracy': 0.94173, 'seeds': 10}
    """
    known = published(recipe)
    row = known.setting(c, mu) if known else None
    if known is None or row is None:
        return None
    twin = known.twin.test_accuracy if known.twin else None
    return {"sparsity": row.sparsity, "test_accuracy": row.test_accuracy, "twin_accuracy": twin, "seeds": row.seeds}


def _setting(record: dict[str, Any]) -> Setting:
    values: dict[str, Any] = {**record, "curves": _series(record.get("curves", {}))}
    return Setting(**values)


def _series(records: Mapping[str, Any]) -> dict[str, Series]:
    return {name: Series(*(np.array(part, dtype=float) for part in points)) for name, points in records.items()}
