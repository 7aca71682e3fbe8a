"""Verify that two networks compute the same function: on random inputs, a larger batch and another input size."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..comparison import relative_difference

# Relative to the largest output; the float64 rounding of a deep network is orders of magnitude smaller.
_TOLERANCE = 1e-9
# The smallest scale of an output: rounding errors of outputs that cancel to almost zero are not wrong.
_FLOOR = 1e-3
# Dimension -> how much larger, for another size: pixels, tokens, or a size that stays divisible by 32.
_RESIZES = ({2: 5, 3: 3, 4: 1}, {1: -1}, {2: 32, 3: 32, 4: 32})


def refuse_if_different(model: nn.Module, smaller: nn.Module, inputs: tuple) -> None:
    """Raise RuntimeError if the networks, both in float64, do not give the same outputs."""
    with torch.no_grad():
        for sample, expected in _samples(model, inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in sample if isinstance(x, Tensor))
            try:
                actual = _run(smaller, sample)
            except Exception as error:
                raise RuntimeError(f"the smaller network fails on inputs of shape {shapes}: {error}") from error
            difference = _difference(expected, actual)
            if not difference <= _TOLERANCE:
                if not _difference(expected, _run(model, sample)) <= _TOLERANCE:
                    raise RuntimeError("the network itself gives NaN, or other outputs each time, for the same inputs")
                relative = f"{difference:.1e} of the largest output"
                raise RuntimeError(f"the smaller network differs by {relative} on inputs of shape {shapes}")


def _samples(model: nn.Module, inputs: tuple) -> Iterator[tuple[tuple, Any]]:
    """Inputs, and the outputs of the model for them."""
    generator = torch.Generator().manual_seed(0)
    yield inputs, _run(model, inputs)
    for change in ({0: 1}, *_RESIZES):
        sample = tuple(_random(x, change, generator) for x in inputs)
        try:
            expected = _run(model, sample)
        except Exception:  # a network may raise anything for a size it does not take
            continue
        yield sample, expected
        if change in _RESIZES:
            break


def _run(model: nn.Module, inputs: tuple) -> Any:
    """The outputs for copies of the inputs, because a network may overwrite its inputs."""
    return model(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))


def _random(x: Any, change: dict[int, int], generator: torch.Generator) -> Any:
    """Random numbers where x has floats, a random choice of its own entries otherwise."""
    if not isinstance(x, Tensor):
        return x
    shape = [max(1, size + change.get(dim, 0)) for dim, size in enumerate(x.shape)]
    if x.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=x.dtype)
    return x.reshape(-1)[torch.randint(x.numel(), shape, generator=generator)]


def _difference(expected: Any, actual: Any) -> float:
    """The largest relative difference of any output tensor; inf if they are not comparable."""
    largest, left, right = 0.0, tree_leaves(expected), tree_leaves(actual)
    if len(left) != len(right):
        return math.inf
    for a, b in zip(left, right):
        if not isinstance(a, Tensor):
            continue
        if a.dtype != b.dtype:
            return math.inf
        difference = 0.0 if torch.equal(a, b) else relative_difference(a, b, floor=_FLOOR)
        if math.isnan(difference):
            return difference
        largest = max(largest, difference)
    return largest
