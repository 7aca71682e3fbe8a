"""Judge a finished run: networks that learned nothing or collapsed, pruning without zeros, differences by chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..run_folder import Finding

__all__ = ["above_chance", "judge_run"]

# A difference of two accuracies is chance up to 2 of its standard errors. Beyond 5 of them, and 5 points, it is large:
# a small loss of accuracy is the price of zeros, and no failure.
_CHANCE, _LARGE, _LARGE_POINTS = 2, 5, 0.05
_EXACT = 1e-4  # of the share of zeros that a target asks for


def judge_run(
    dense: Mapping[str, float],
    sparse: Mapping[str, float],
    layers: Sequence[Mapping[str, Any]],
    *,
    c: float,
    samples: int,
    majority: float,
    target: float | None = None,
    unit: str = "images",
) -> list[Finding]:
    """What went wrong in a finished run, most important first, and what its difference in accuracy means.

    With n test samples, a of them of the most frequent class and p = a / n, a network has learned nothing if its
    accuracy is at most p + 2 sqrt(p (1 - p) / n). The difference of two accuracies p, q has the standard error
    sqrt((p (1 - p) + q (1 - q)) / n); up to two of them are chance. With ``c = 0`` no zeros are expected; with a
    target, that share of the pruned weights to 0.01 points, or to one weight.

    Args:
        dense, sparse: ``test_accuracy`` (a fraction) and ``test_loss`` of the two networks.
        layers: of the sparse network: ``name``, ``total``, ``nonzeros``, ``prunable`` (whether it has two or more
            dimensions) and ``pruned`` (whether the optimizer prunes it).
        c, target: the strength of the threshold, or instead of it the share of zeros that was asked for.
        samples, majority: number of test samples, and the fraction of their most frequent class.
        unit: what the test samples are.

    >>> network = {"test_accuracy": 0.1, "test_loss": 2.3}
    >>> layers = [{"name": "fc.weight", "total": 640, "nonzeros": 0, "prunable": True, "pruned": True}]
    >>> judge_run({**network, "test_accuracy": 0.99}, network, layers, c=5.0, samples=450, majority=0.1)[0].text
    'The sparse network is constant: all 640 pruned weights are zero, test accuracy 10.00 %; use a smaller --c than 5'
    """
    broken = [
        Finding(network, "not finite", f"The test loss of {name} is not finite; use a smaller --lr")
        for network, name, result in (("sgd", "the dense baseline", dense), ("grda", "the sparse network", sparse))
        if not math.isfinite(result["test_loss"])
    ]
    test = _Test(samples, majority, unit)
    dense_learned, sparse_learned = (test.learned(result["test_accuracy"]) for result in (dense, sparse))
    findings = list(broken)
    if not dense_learned:
        text = f"The dense baseline has learned nothing: {test.chance(dense)}; change --lr or --epochs"
        findings.append(Finding("sgd", "at chance", text))
    strength = _Strength(c, target)
    pruning = _judge_zeros(sparse, layers, strength) if strength.prunes else []
    if not dense_learned:  # with a rate so small, no threshold rises
        pruning = [finding for finding in pruning if finding.kind != "no zeros"]
    findings += pruning
    collapsed = any(finding.kind == "constant" for finding in pruning)
    if not sparse_learned and dense_learned and not collapsed:
        advice = f"use a smaller {strength.value}" if strength.prunes else "change --lr or --seed"
        text = f"The sparse network has learned nothing: {test.chance(sparse)}; {advice}"
        findings.append(Finding("grda", "at chance", text))
    if dense_learned and sparse_learned and not broken:
        findings += test.compare(dense["test_accuracy"], sparse["test_accuracy"], strength)
    return findings


def above_chance(accuracy: float, majority: float, samples: int) -> bool:
    """Whether the accuracy on so many samples is more than that of the most frequent class, beyond chance."""
    return majority >= 1 or accuracy > majority + _CHANCE * math.sqrt(majority * (1 - majority) / samples)


@dataclass(frozen=True)
class _Strength:
    """What decides the number of zeros: c, or a target."""

    c: float
    target: float | None

    @property
    def prunes(self) -> bool:
        """Whether zeros are expected."""
        return self.c > 0 or self.target is not None

    @property
    def value(self) -> str:
        """Its flag and value, in words."""
        return f"--c than {self.c:g}" if self.target is None else f"--target than {self.target:g}"


def _judge_zeros(
    sparse: Mapping[str, float], layers: Sequence[Mapping[str, Any]], strength: _Strength
) -> list[Finding]:
    pruned = [layer for layer in layers if layer["pruned"] and layer["total"]]
    weights = [layer for layer in layers if layer["prunable"] and layer["total"]]
    if not pruned:
        return []
    if all(layer["nonzeros"] == layer["total"] for layer in pruned):
        text = f"No pruned weight is zero: the threshold is below all of them; use a larger {strength.value}"
        return [Finding("grda", "no zeros", text)]
    smaller, missed = f"use a smaller {strength.value}", _missed_target(pruned, strength.target)
    if not any(layer["nonzeros"] for layer in weights):
        count = sum(layer["total"] for layer in weights if layer["pruned"])
        zeros = f"all {count:,} pruned weights are zero, test accuracy {sparse['test_accuracy']:.2%}"
        text = f"The sparse network is constant: {zeros}; {smaller}".replace("%", " %")
        return [Finding("grda", "constant", text)]
    # Biases are often zero without harm.
    matrices = [layer for layer in pruned if layer["prunable"]]
    empty = [layer for layer in matrices if not layer["nonzeros"]]
    if not empty:
        return missed
    if len(empty) == 1:
        text = f"Layer {empty[0]['name']}: all {empty[0]['total']:,} weights are zero; {smaller}"
    else:
        names = ", ".join(str(layer["name"]) for layer in empty[:3]) + ", ..." * (len(empty) > 3)
        text = f"{len(empty)} of {len(matrices)} pruned layers have no weight left ({names}); {smaller}"
    return [*missed, Finding("grda", "empty layer" if len(empty) == 1 else "empty layers", text)]


def _missed_target(pruned: Sequence[Mapping[str, Any]], target: float | None) -> list[Finding]:
    total = sum(layer["total"] for layer in pruned)
    reached = 1 - sum(layer["nonzeros"] for layer in pruned) / total
    if target is None or abs(reached - target) <= max(_EXACT, 1 / total):
        return []
    text = f"The target is missed: {reached:.2%} of the {total:,} pruned weights are zero, not {target:.2%}"
    text += "; use a larger --epochs"
    return [Finding("grda", "target missed", text.replace("%", " %"))]


@dataclass(frozen=True)
class _Test:
    """The test data: how many samples, the fraction of their most frequent class, and what they are."""

    samples: int
    majority: float
    unit: str

    def learned(self, accuracy: float) -> bool:
        """Whether the accuracy is more than that of the most frequent class; where there is one class only, yes."""
        return above_chance(accuracy, self.majority, self.samples)

    def chance(self, result: Mapping[str, float]) -> str:
        """An accuracy beside that of the most frequent class."""
        share = f"{result['test_accuracy']:.2%} of the test {self.unit}, the most frequent class {self.majority:.2%}"
        return share.replace("%", " %")

    def compare(self, p: float, q: float, strength: _Strength) -> list[Finding]:
        """The sparse network's accuracy q beside the dense baseline's p."""
        difference = round((q - p) * self.samples)
        # In samples; at least half of one, because two perfect networks have none.
        error = max(0.5, math.sqrt((p * (1 - p) + q * (1 - q)) * self.samples))
        limit = math.floor(_CHANCE * error)
        if difference == 0:
            return []
        count = f"{abs(difference):,} of {self.samples:,} test {self.unit}"
        if abs(difference) <= limit:
            text = f"The accuracies differ by {count}: within chance (up to {limit:,}, two standard errors)"
            return [Finding("grda", "within chance", text, problem=False)]
        errors = f"{abs(difference) / error:.1f} standard errors of the difference"
        if difference > 0:
            text = f"The sparse network answers {count} more than the dense baseline, {errors}"
            return [Finding("grda", "more accurate", text, problem=False)]
        if -difference <= _LARGE * error or p - q <= _LARGE_POINTS:
            text = f"The sparse network answers {count} fewer than the dense baseline, {errors}"
            return [Finding("grda", "less accurate", text, problem=False)]
        text = f"The sparse network is far below the dense baseline: by {count}, {errors}"
        text += f"; use a smaller {strength.value}" if strength.prunes else ""
        return [Finding("grda", "far below", text)]
