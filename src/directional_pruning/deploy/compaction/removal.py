"""The public function: copy a network, remove its dead channels, verify the result."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...weights import plain_network
from .solve import remove_channels
from .trace import trace
from .verify import refuse_if_different

__all__ = ["compact"]


def compact(model: nn.Module, example_inputs: Any) -> fx.GraphModule:
    """Remove the channels that zeros have made dead, exactly: the same outputs from a smaller dense network.

    A channel here is a convolution's channel, a hidden neuron, or a dimension inside an attention head. It is removed

    - if its value is one constant c_j, whatever the input: its weights are zero, or all of its inputs are constant.
      Constants pass through batch norm, activations, pooling, sums, products, concatenation and views. The next layer
      takes them into its bias, b + sum_j c_j W[:, j]. At a border of zeros a bias would be wrong. There one constant
      channel c_k remains for all of them, with the kernel sum_j (c_j / c_k) W[:, j]: exact at every input size;
    - if no output depends on it.

    The channels of a sum (a residual stream) remain if any of its branches needs them; a branch that is constant as
    a whole becomes that constant. A layer norm mixes all channels, so these remain. Heads have equally many dimensions.

    Args:
        model: a network that ``torch.fx`` can trace; a part that cannot be traced stays as it is. It is not changed.
            Weights that a mask, a parametrization or a weight norm computes are plain parameters of the result.
        example_inputs: a tensor, or a tuple of the first arguments of ``forward``. Any batch and values will do.

    Returns:
        The smaller network in evaluation mode: a ``GraphModule`` with the layers, names, dtypes and device of the
        model, its batch norms folded into the layers before them where there is one, and with the remaining zeros. It
        can be trained, pickled and copied; what forward decided in Python (dropout by ``F.dropout``) is decided as in
        evaluation. ``nn.MultiheadAttention`` comes out as linear layers for queries, keys and values.

    Raises:
        TypeError: the model is not a module, or there is no tensor among the inputs.
        ValueError: the model cannot be traced.
        RuntimeError: the smaller network does not give the same outputs. Both are run in float64 on the example, on a
            larger batch, and on another size if the model takes one; the largest difference may be 1e-9 of the largest
            output. So every network that is returned has been tested.

    Operations without a rule keep all of their inputs and outputs, and a ``UserWarning`` names them. Zero times an
    infinite activation counts as zero.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        >>> with torch.no_grad():
        ...     _ = model[0].weight[:5].zero_()  # five filters have no output but the shift of the batch norm
        ...     _ = model[1].bias[:5].fill_(0.5)
        >>> images = torch.randn(4, 3, 16, 16)
        >>> smaller = compact(model, images)
        >>> smaller.get_submodule("0").out_channels
        3
        >>> torch.allclose(smaller(images), model.eval()(images), atol=1e-5)
        True
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not isinstance(model, nn.Module):
        raise TypeError(f"invalid model: {type(model).__name__} (must be a torch.nn.Module)")
    if not any(isinstance(x, Tensor) for x in inputs):
        kind = type(example_inputs).__name__
        raise TypeError(f"invalid example_inputs: {kind} (must be a tensor, or a tuple with one)")
    model = plain_network(model)
    with _default_float64():
        inputs = tuple(_to_float64(x) if isinstance(x, Tensor) else x for x in inputs)
        original, network = (copy.deepcopy(model).to("cpu").double().eval() for _ in range(2))
        network = trace(network, inputs)
        unknown = remove_channels(network, inputs)
        refuse_if_different(original, network, inputs)
    _restore_dtypes(network, model)
    if unknown:
        listed = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in Counter(unknown).items())
        warnings.warn(f"compact left untouched what touches operations it does not know: {listed}", stacklevel=2)
    return network


def _to_float64(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.double() if x.is_floating_point() else x


@contextmanager
def _default_float64() -> Iterator[None]:
    """Make float64 the dtype of the tensors that forward creates, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _restore_dtypes(network: nn.Module, model: nn.Module) -> None:
    """Give every tensor the device and dtype it has in the model, new ones those of its first floating parameter."""
    old = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    default = next((t for t in old.values() if t.is_floating_point()), torch.empty(0))
    new: dict[int, Tensor] = {}
    for prefix, module in network.named_modules():
        for name, t in [*module.named_parameters("", False, False), *module.named_buffers("", False, False)]:
            like = old.get(f"{prefix}.{name}" if prefix else name, default)
            dtype = like.dtype if t.is_floating_point() else t.dtype
            if id(t) not in new:
                moved = t.detach().to(like.device, dtype)
                new[id(t)] = nn.Parameter(moved, t.requires_grad) if isinstance(t, nn.Parameter) else moved
            setattr(module, name, new[id(t)])
