"""A search for the sparsest network within a drop, read from ``tune.json``, and its result in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ..files import CorruptFileError, parse_json
from ..run_folder import TUNE, printable
from .formatting import decimal, percent


@dataclass(frozen=True)
class Tried:
    """A target that was trained; means over the seeds."""

    target: float
    zeros: float
    """The share that was reached, of the weights that are pruned."""
    value: float
    """The validation metric; NaN where training diverged."""
    deviation: float | None
    drop: float
    """What is lost to the dense networks: points of accuracy, or units of the loss."""
    held: bool


@dataclass(frozen=True)
class Tuned:
    """A search under way or at its end."""

    recipe: str
    metric: str
    limit: float
    seeds: int
    samples: int
    """Of the validation data."""
    unit: str
    dense: float
    tried: tuple[Tried, ...]
    """In the order of their targets."""
    chosen: Tried | None
    test: tuple[float, float] | None
    """The test metric of the dense and of the chosen networks; None while the search is under way, or chose nothing."""

    @property
    def allowed(self) -> str:
        """The drop in words."""
        return (
            f"{self.limit:g} point{'s' * (self.limit != 1)}"
            if self.metric == "accuracy"
            else f"{self.limit:g} of the loss"
        )

    def in_words(self, value: float) -> str:
        """A value of the metric."""
        return percent(value, 2) if self.metric == "accuracy" else decimal(value, 4)

    def lost(self, tried: Tried) -> str:
        """What a target loses, negative where it gains."""
        if not math.isfinite(tried.drop):
            return "diverged"
        return f"{tried.drop + 0.0:.{2 if self.metric == 'accuracy' else 4}f}".replace("-", "\N{MINUS SIGN}")

    def choice(self) -> str:
        """The chosen network beside the dense one, in one line."""
        if not self.tried:
            return "no target is trained yet"
        if self.chosen is None:
            least = self.tried[0]
            return f"no target is within {self.allowed}: {percent(least.target)} zeros lose {self.lost(least)} already"
        pairs = [("validation", self.chosen.value, self.dense)]
        pairs += [("test", self.test[1], self.test[0])] if self.test else []
        results = [f"{data} {self.metric} {self.in_words(x)}, dense {self.in_words(y)}" for data, x, y in pairs]
        zeros = f"{percent(self.chosen.zeros, 2)} zeros of the pruned weights"
        return "; ".join([f"sparsest within {self.allowed}: {zeros}", *results])

    def remarks(self) -> list[str]:
        """How far the choice can be trusted, a line each."""
        lines = []
        if self.metric == "accuracy" and self.tried:
            count = self.samples * self.seeds
            one, seeds = 100 / count, f", seen by {self.seeds} seeds," if self.seeds > 1 else ""
            sparse = self.chosen or self.tried[0]
            p, q = (min(max(value, 0.0), 1.0) for value in (self.dense, sparse.value))
            text = f"one of {self.samples:,} validation {self.unit}{seeds} is {one:.2g} points"
            if math.isfinite(p + q):
                chance = 200 * max(math.sqrt((p * (1 - p) + q * (1 - q)) / count), 0.5 / count)
                text += f"; differences up to {chance:.2g} points are within chance (two standard errors)"
            lines.append(text)
        if self.chosen and any(not each.held and each.target < self.chosen.target for each in self.tried):
            lines.append("a smaller target was not within the drop: chance decides here, and more --seeds would help")
        if self.test:
            lines.append("the test data were used once, for the chosen network and its dense twin")
        return lines


def read_tuned(folder: Path) -> Tuned:
    """The search in a folder.

    Raises:
        FileNotFoundError: for a folder without one.
        CorruptFileError: for a file that no search writes.
    """
    path = folder / TUNE
    try:
        record: Any = printable(parse_json(path.read_bytes()))
        tried = tuple(
            Tried(
                target=float(each["target"]),
                zeros=float(each["zeros"]),
                value=float(each["value"]),
                deviation=each["deviation"],
                drop=float(each["drop"]),
                held=bool(each["held"]),
            )
            for each in record.get("tried", [])
        )
        test = record.get("test") or []
        return Tuned(
            recipe=str(record["recipe"]),
            metric=str(record["metric"]),
            limit=float(record["drop"]),
            seeds=len(record["seeds"]),
            samples=int(record["validation_samples"]),
            unit=str(record["unit"]),
            dense=_number(record.get("dense")),
            tried=tuple(sorted(tried, key=lambda each: each.target)),
            chosen=next((each for each in tried if each.target == record.get("chosen")), None),
            test=(_mean(test, "sgd"), _mean(test, "grda")) if test else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is not a readable search: {error}") from None


def _mean(records: Sequence[Any], network: str) -> float:
    return mean(float(record[network]) for record in records)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
