"""Which operations are products, how many multiply-adds each takes, and what it multiplies."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

__all__ = ["products"]

# The multiply-adds of each product in an operation, with the tensors that are multiplied.
Products = Iterator[tuple[int, tuple[Tensor, ...]]]
Rule = Callable[..., Products]


def products(func: Any) -> Rule | None:
    """The rule of an operation, to be called with its result and its arguments; None if it is no product.

    >>> import torch
    >>> matrix, vector = torch.ones(3, 4), torch.ones(4)
    >>> rule = products(torch.ops.aten.mv.default)
    >>> [multiply_adds for multiply_adds, _ in rule(matrix @ vector, matrix, vector)]
    [12]
    """
    operation = getattr(func, "_overloadpacket", func)
    name = str(operation).removeprefix("aten.")
    if name in _RULES:
        return _RULES[name]
    if operation not in flop_registry:
        return None
    formula, start = flop_registry[operation], int(name in ("addmm", "baddbmm"))  # there the first is a bias
    number = 2 if start or name in ("mm", "bmm", "_scaled_mm") or "conv" in name else 3

    def rule(out: Any, *args: Any, **kwargs: Any) -> Products:
        tensors = (t for t in args[start : start + number] if isinstance(t, Tensor))
        yield formula(*args, **kwargs, out_val=out) // 2, tuple(tensors)

    return rule


def _rows(out: Tensor, x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Products:
    """Products of rows (..., k) with a matrix, in whatever way it is packed."""
    yield out.numel() * x.shape[-1], (x, weight)


def _elementwise(out: Tensor, a: Tensor, b: Tensor) -> Products:
    """A matrix with a vector, or two vectors: each element of the first is multiplied once."""
    yield a.numel(), (a, b)


def _added(out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Products:
    """A bias plus a matrix times a vector, or plus a sum of products of matrices."""
    yield a.numel() * (b.shape[-1] if b.ndim == 3 else 1), (a, b)


def _sparse_added(out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Products:
    """A matrix in a sparse layout, zeros included as everywhere, times a matrix."""
    yield a.numel() * b.shape[-1], (a, b)


def _trilinear(out: Tensor, a: Tensor, weight: Tensor, b: Tensor, *_: Any) -> Products:
    """Bilinear layers, out[n, o] = sum_ij a[n, i] weight[o, i, j] b[n, j]: first a with the weight, then with b."""
    yield a.shape[0] * weight.numel(), (weight, a)
    yield out.numel() * weight.shape[-1], (a, b)


def _convolution_tbc(out: Tensor, x: Tensor, weight: Tensor, *_: Any) -> Products:
    """Weight (kernel, in, out), result (time, batch, out)."""
    yield out.numel() * weight.shape[0] * weight.shape[1], (x, weight)


def _attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Products:
    """Each query with each key, and each score with a value."""
    yield query.numel() * key.shape[-2], (query, key)
    yield query.numel() // query.shape[-1] * key.shape[-2] * value.shape[-1], (query, value)


def _recurrent(position: int) -> Rule:
    """Fused recurrent layers, whose weights are the argument at this position and those after it."""

    def rule(out: Any, x: Tensor, *args: Any, **_: Any) -> Products:
        given = args[position - 1]
        weights = given if isinstance(given, (list, tuple)) else args[position - 1 : position + 1]
        for weight in weights:
            if weight.ndim == 2:  # no bias; each row of the input, at each time and in each sample, meets it once
                yield x.numel() // x.shape[-1] * weight.numel(), (weight, x)

    return rule


# Beyond those of torch.utils.flop_counter.
_RULES: dict[str, Rule] = {
    "mv": _elementwise,
    "dot": _elementwise,
    "vdot": _elementwise,
    "addmv": _added,
    "addbmm": _added,
    "_sparse_addmm": _sparse_added,
    "_trilinear": _trilinear,
    "conv_tbc": _convolution_tbc,
    "mkldnn_rnn_layer": _recurrent(1),
    "_cudnn_rnn": _recurrent(1),
    "miopen_rnn": _recurrent(1),
    "_lstm_mps": _recurrent(2),
    **dict.fromkeys(
        (
            "linear",
            "matmul",
            "_int_mm",
            "_grouped_mm",
            "_scaled_grouped_mm",
            "_weight_int8pack_mm",
            "_weight_int4pack_mm",
        ),
        _rows,
    ),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_fused_attention_overrideable",
            "_scaled_dot_product_attention_math_for_mps",
        ),
        _attention,
    ),
}
