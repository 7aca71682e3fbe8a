"""Whether two networks are the same function: random inputs, another batch, another size where the first takes one."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# Of the largest output; the float64 rounding of a deep network stays orders below.
_TOLERANCE = 1e-9
# What to add to which dimensions for another size: pixels, tokens, or as much as keeps a size divisible by 32.
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
                share = f"{difference:.1e} of the largest output"
                raise RuntimeError(f"the smaller network differs by {share} on inputs of shape {shapes}")


def _samples(model: nn.Module, inputs: tuple) -> Iterator[tuple[tuple, Any]]:
    """Inputs, and what the model makes of them."""
    generator = torch.Generator().manual_seed(0)
    yield inputs, _run(model, inputs)
    for change in ({0: 1}, *_RESIZES):
        sample = tuple(_random(x, change, generator) for x in inputs)
        try:
            expected = _run(model, sample)
        except Exception:  # whatever a network says to a size it does not take
            continue
        yield sample, expected
        if change in _RESIZES:
            break


def _run(model: nn.Module, inputs: tuple) -> Any:
    """The outputs for copies of the inputs, which a network may overwrite."""
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
    """The largest difference of any output tensor, as a share of its largest entry; inf if not comparable."""
    worst, left, right = 0.0, tree_leaves(expected), tree_leaves(actual)
    if len(left) != len(right):
        return math.inf
    for a, b in zip(left, right):
        if not isinstance(a, Tensor):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.numel() and not torch.equal(a, b):
            a, b = a.double(), b.double()
            # The floor: outputs that cancel to nothing are not wrong for a rounding error.
            difference = float((a - b).abs().max() / a.abs().max().clamp(min=1e-3))
            if math.isnan(difference):
                return difference
            worst = max(worst, difference)
    return worst
