"""Measure how sparse a network is: zeros, nonzeros and multiply-adds, for each layer and in total."""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..layer_kinds import KINDS, PRUNABLE, parameter_kinds
from ..tensors import count_nonzeros
from ..weights import layer_weights
from .multiply_adds import count_multiply_adds

__all__ = ["LayerSparsity", "SparsityReport", "sparsity_report"]


@dataclass(frozen=True)
class LayerSparsity:
    """One weight of a layer. Multiply-adds are None without example inputs."""

    name: str
    shape: tuple[int, ...]
    total: int
    nonzeros: int
    multiply_adds: int | None = None
    kind: str = "weight"
    sparse_multiply_adds: int | None = None
    """The multiply-adds whose weight is not zero."""
    pruned: bool | None = None
    """Whether the optimizer prunes it; None without an optimizer."""

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros, from 0 to 1; 0 for an empty tensor."""
        return 1 - self.nonzeros / self.total if self.total else 0.0

    @property
    def prunable(self) -> bool:
        """Whether ``prunable_groups`` prunes it: a weight or an embedding, not a scale, bias or position table."""
        return self.kind in PRUNABLE


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
    def pruned(self) -> "SparsityReport":
        """The same report for the weights that the optimizer prunes, those in groups with ``c > 0``.

        Raises ValueError if ``sparsity_report`` was called without an optimizer.
        """
        if any(layer.pruned is None for layer in self.layers):
            raise ValueError("what is pruned is not known: call sparsity_report(model, optimizer=optimizer)")
        return SparsityReport(tuple(layer for layer in self.layers if layer.pruned), self.activation_multiply_adds)

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
        if any(layer.pruned is not None for layer in self.layers):
            totals.insert(0, row("pruned weights", "", self.pruned))
        columns = len(totals[0])
        widths = [max(len(line[i]) for line in [header, *rows, *totals]) for i in range(columns)]

        def line(cells: list[str]) -> str:
            text = (cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths)))
            return "  ".join(text).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([line(header[:columns]), rule, *map(line, rows), rule, *map(line, totals)])


def sparsity_report(
    model: nn.Module, example_inputs: Any = None, *, optimizer: Optimizer | None = None
) -> SparsityReport:
    """Count the exact zeros of a network's weights and, with inputs, the multiply-adds with and without them.

    Args:
        model: any network. Buffers such as running means are not parameters and are not counted.
        example_inputs: a tensor, or a tuple of the arguments of ``forward``. The network runs once on it in evaluation
            mode; multiply-adds are those of the whole batch. With None they are not counted.
        optimizer: GRDA or Directional of this network; then the report has ``pruned``, the weights it prunes.

    The weights are those that the layers use. If a mask of ``torch.nn.utils.prune``, a parametrization or a weight norm
    computes a weight, the report has this weight, not the parameters that it is computed from.

    Multiply-adds are those of matrix products, convolutions, recurrent and bilinear layers, and attention, padding
    included. Where ``torch.utils.flop_counter`` counts a product, they are half of its count. Additions of biases,
    elementwise functions and look-ups of embeddings are not counted. A product with a copy of a weight, or with what is
    computed from a weight alone, counts under this weight.

    If parameters are sharded (FSDP), the numbers are those of the whole network, the same on every process. Every
    process must call this function, because they add up their counts.

    Raises:
        ValueError: for a weight without values (lazy or on the meta device), one that cannot be computed, or those that
            FullyShardedDataParallel has flattened.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> layer.weight = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
        >>> report = sparsity_report(layer, torch.ones(5, 3))
        >>> report.prunable.sparsity, report.multiply_adds, report.sparse_multiply_adds
        (0.6666666666666667, 30, 10)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"invalid model: {type(model).__name__} (must be a torch.nn.Module)")
    _refuse_flattened(model)
    counter = None
    if example_inputs is not None:
        counter = count_multiply_adds(model, example_inputs)
        if counter.unknown:
            listed = ", ".join(sorted(counter.unknown))
            remedy = "register them with torch.utils.flop_counter.register_flop_formula"
            warnings.warn(f"sparsity_report counts no multiply-adds of {listed} ({remedy})", stacklevel=2)
    pruned = None if optimizer is None else _pruned_parameters(optimizer, model)
    kind, layers, undefined = parameter_kinds(model), [], []
    # Wrappers such as that of activation checkpoints have other names in a named_parameters of their own.
    kinds = {id(p): kind[name] for name, p in nn.Module.named_parameters(model, remove_duplicate=False)}
    for weight in layer_weights(model):
        value = weight.value()
        if weight.remedy and count_nonzeros(weight.name, value != value):
            undefined.append(weight.name)
        multiply_adds, sparse = (None, None) if counter is None else counter.by_name.get(weight.name, (0, 0))
        layers.append(
            LayerSparsity(
                weight.name,
                tuple(value.shape),
                value.numel(),
                count_nonzeros(weight.name, value),
                multiply_adds,
                min((kinds[id(p)] for p in weight.sources), key=KINDS.index),
                sparse,
                None if pruned is None else any(id(p) in pruned for p in weight.sources),
            )
        )
    if undefined:
        more = f" and {len(undefined) - 1} more" if undefined[1:] else ""
        reason = "weight_norm makes 0/0 of a row of zeros"
        warnings.warn(f"NaN counts as not zero in {undefined[0]!r}{more} ({reason})", stacklevel=2)
    return SparsityReport(tuple(layers), None if counter is None else counter.activations)


def _refuse_flattened(model: nn.Module) -> None:
    modules: Any = model.named_modules()
    for name, module in modules:
        # By its name: importing it takes a second.
        if type(module).__name__ != "FullyShardedDataParallel" or module.training_state.name == "SUMMON_FULL_PARAMS":
            continue
        if module.world_size > 1 or not module._use_orig_params:
            remedy = "call it inside FullyShardedDataParallel.summon_full_params(model), or use fully_shard"
            raise ValueError(f"cannot count the weights of module {name!r}: it has them flattened ({remedy})")


def _pruned_parameters(optimizer: Any, model: nn.Module) -> set[int]:
    """The parameters with a threshold that grows."""
    groups, own = optimizer.param_groups, set(map(id, model.parameters()))
    if own and not any(id(p) in own for group in groups for p in group["params"]):
        raise ValueError("invalid optimizer: it has no parameter of the model")
    return {id(p) for group in groups if float(group.get("c") or 0) > 0 for p in group["params"]}
