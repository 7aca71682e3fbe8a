"""Measure how sparse a network is: zeros, nonzeros and multiply-adds, for each layer and in total."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..layer_kinds import PRUNABLE, parameter_kinds
from ..tensors import module_mode

__all__ = ["LayerSparsity", "SparsityReport", "sparsity_report"]


@dataclass(frozen=True)
class LayerSparsity:
    """One parameter tensor. Multiply-adds are None without example inputs."""

    name: str
    shape: tuple[int, ...]
    total: int
    nonzeros: int
    multiply_adds: int | None = None
    kind: str = "weight"

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros, from 0 to 1; 0 for an empty tensor."""
        return 1 - self.nonzeros / self.total if self.total else 0.0

    @property
    def prunable(self) -> bool:
        """Whether ``prunable_groups`` prunes it: a weight or an embedding, not a scale, bias or position table."""
        return self.kind in PRUNABLE

    @property
    def sparse_multiply_adds(self) -> int | None:
        """The multiply-adds with a nonzero weight: each weight of a tensor takes part in the same number of them."""
        if self.multiply_adds is None:
            return None
        return round(self.multiply_adds * self.nonzeros / self.total) if self.total else 0


@dataclass(frozen=True)
class SparsityReport:
    """Zeros of a network, layer by layer in the order of ``named_parameters``; ``str()`` is a table."""

    layers: tuple[LayerSparsity, ...]
    activation_multiply_adds: int | None = None
    """Multiply-adds of two activations (attention), which pruning cannot remove. None without example inputs."""

    @property
    def total(self) -> int:
        """Number of parameters; shared ones count once."""
        return sum(layer.total for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Number of parameters that are not exactly zero."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros among all parameters (the paper's denominator), from 0 to 1."""
        return 1 - self.nonzeros / self.total if self.total else 0.0

    @property
    def prunable(self) -> "SparsityReport":
        """The same report for the prunable weights only."""
        return SparsityReport(tuple(layer for layer in self.layers if layer.prunable), self.activation_multiply_adds)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of one forward pass over the example inputs, zeros included."""
        if self.activation_multiply_adds is None:
            return None
        return self.activation_multiply_adds + sum(layer.multiply_adds or 0 for layer in self.layers)

    @property
    def sparse_multiply_adds(self) -> int | None:
        """Multiply-adds of the same pass whose weight is not zero."""
        if self.activation_multiply_adds is None:
            return None
        return self.activation_multiply_adds + sum(layer.sparse_multiply_adds or 0 for layer in self.layers)

    def __str__(self) -> str:
        def row(name: str, shape: str, part: LayerSparsity | SparsityReport) -> list[str]:
            cells = [name, shape, f"{part.total:,}", f"{part.nonzeros:,}", f"{part.sparsity:.2%}"]
            if self.activation_multiply_adds is not None:
                cells += [f"{part.multiply_adds or 0:,}", f"{part.sparse_multiply_adds or 0:,}"]
            return cells

        header = ["layer", "shape", "parameters", "nonzero", "zeros", "multiply-adds", "with nonzero weight"]
        rows = [row(layer.name, "x".join(map(str, layer.shape)) or "scalar", layer) for layer in self.layers]
        totals = [row("prunable weights", "", self.prunable), row("all parameters", "", self)]
        columns = len(totals[0])
        widths = [max(len(line[i]) for line in [header, *rows, *totals]) for i in range(columns)]

        def line(cells: list[str]) -> str:
            text = (cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
            return "  ".join(text).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(header[:columns]), rule, *map(line, rows), rule, *map(line, totals)])


def sparsity_report(model: nn.Module, example_inputs: Any = None) -> SparsityReport:
    """Count the exact zeros of a network's parameters and, with inputs, the multiply-adds with and without them.

    Args:
        model: any network. Buffers such as running means are not parameters and are not counted.
        example_inputs: a tensor, or a tuple of the arguments of ``forward``. The network runs once on it in evaluation
            mode; multiply-adds are those of the whole batch. With None they are not counted.

    Multiply-adds are those of matrix products, convolutions and attention: half the count of
    ``torch.utils.flop_counter``, padding included. Additions of biases and elementwise functions are not counted.
    Under autocast, layers multiply by copies of their weights, which count as activations: call it outside autocast.

    If parameters are sharded (FSDP), the numbers are those of the whole network, the same on every process. Every
    process must call this function, because they add up their counts.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> layer.weight = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
        >>> report = sparsity_report(layer, torch.ones(5, 3))
        >>> report.prunable.sparsity, report.multiply_adds, report.sparse_multiply_adds
        (0.6666666666666667, 30, 10)
    """
    parameters = dict(model.named_parameters())
    kinds = parameter_kinds(model)
    counter = None
    if example_inputs is not None:
        counter = _count_multiply_adds(model, example_inputs)
    layers = tuple(
        LayerSparsity(
            name,
            tuple(p.shape),
            p.numel(),
            _count_nonzeros(p),
            None if counter is None else counter.by_name.get(name, 0),
            kinds[name],
        )
        for name, p in parameters.items()
    )
    return SparsityReport(layers, None if counter is None else counter.activations)


def _is_sharded(p: Tensor) -> bool:
    return hasattr(p, "to_local")  # a DTensor; importing torch.distributed.tensor takes a second


def _count_nonzeros(p: Tensor) -> int:
    count: Any = (p.detach() != 0).sum()
    return int(count.full_tensor() if _is_sharded(p) else count)


def _count_multiply_adds(model: nn.Module, example_inputs: Any) -> "_Counter":
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    counter = _Counter(model)
    # The fused encoder layer hides its products from the counter, as does fused attention on a CPU.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with module_mode(model, training=False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of every product under the name of its parameter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sharded = any(_is_sharded(p) for p in model.parameters())
        self.names = self._names()
        self.by_name: dict[str, int] = {}
        self.activations = 0

    def _names(self) -> dict[int, str]:
        # By storage, because a layer multiplies by a transposed view of its weight.
        parameters = ((name, p) for name, p in self.model.named_parameters() if p.numel() and not _is_sharded(p))
        return {p.untyped_storage().data_ptr(): name for name, p in parameters}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 (torch's signature)
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            if self.sharded:  # FSDP gathers the parameters of a layer only while it runs
                self.names = self._names()
            multiply_adds = formula(*args, **(kwargs or {}), out_val=out) // 2
            names = [
                self.names[pointer]
                for arg in args
                if isinstance(arg, Tensor)
                and arg.ndim >= 2
                and (pointer := arg.untyped_storage().data_ptr()) in self.names
            ]
            if names:
                self.by_name[names[0]] = self.by_name.get(names[0], 0) + multiply_adds
            else:
                self.activations += multiply_adds
        return out
