"""Count the multiply-adds of one forward pass, each under the weight that takes part in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..tensors import count_nonzeros, module_mode, plain_tensors
from ..weights import layer_weights
from .products import products

__all__ = ["Counter", "count_multiply_adds"]

# A part of a tensor: the weight it belongs to, its elements, and how many of them are not zero.
Share = tuple[str, int, int]
# Parts of the names of operations that have products in them.
_PRODUCT = re.compile(r"linear|matmul|mm|conv|attention|lstm|gru|rnn|einsum")
# Namespaces of operations whose products are known; others may hide some.
_NAMESPACES = {"aten", "prim", "prims", "c10d", "_c10d_functional", "fsdp", "profiler", "inductor"}


def count_multiply_adds(model: nn.Module, example_inputs: Any) -> "Counter":
    """Run the network once, in evaluation mode, and count its multiply-adds."""
    # A tuple with names, as a packed sequence, is one argument.
    several = isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields")
    inputs = example_inputs if several else (example_inputs,)
    counter = Counter(model)
    with _no_fusion(), module_mode(model, training=False), torch.no_grad(), counter:
        model(*inputs)
    return counter


@contextmanager
def _no_fusion() -> Iterator[None]:
    """Run what torch fuses or compiles as single operations, so that the counter sees every product."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.clear_autocast_cache()  # else a layer may multiply by a copy from an earlier pass
    try:
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


class Counter(TorchDispatchMode):
    """Adds up the multiply-adds of every product under the name of its weight."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.by_name: dict[str, tuple[int, int]] = {}  # all, and those whose weight is not zero
        self.activations = 0
        self.unknown: set[str] = set()  # operations on weights that may hide products
        # The weights in a storage. By storage, because a layer multiplies by a transposed view of its weight.
        self._weights: dict[StorageWeakRef, list[tuple[str, Tensor]]] = {}
        self._find_weights()
        # What follows from weights and constants alone, by storage: the weights in it, () for a constant.
        self._derived: dict[StorageWeakRef, tuple[Share, ...]] = {}
        plain = [t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor)]
        for t in [*model.buffers(), *plain]:
            self._derived.update(dict.fromkeys(_storages(t), ()))

    def _find_weights(self) -> None:
        weights = layer_weights(self.model)
        self._computed = {weight.name for weight in weights if weight.remedy}
        self._sharded = any(hasattr(p, "to_local") for weight in weights for p in weight.sources)
        found: dict[StorageWeakRef, list[tuple[str, Tensor]]] = {}
        for weight in weights:
            for part in (part for p in weight.sources for part in plain_tensors(p)):
                found.setdefault(StorageWeakRef(part.untyped_storage()), []).append((weight.name, part))
        self._weights |= found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 (torch's signature)
        kwargs = kwargs or {}
        rule = products(func)
        # In inference mode composite operations, such as linear and matmul, arrive whole.
        if rule is None and not types and hasattr(func, "decompose"):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if rule is not None and any(t.is_nested and t.layout is torch.strided for t in _tensors((args, kwargs))):
            self.unknown.add(f"{_name(func)} of nested tensors")
        elif rule is not None:
            if self._sharded:  # FSDP gathers the parameters of a layer only while it runs
                self._find_weights()
            for multiply_adds, operands in rule(out, *args, **kwargs):
                self._add(multiply_adds, operands)
        elif _may_hide_products(func, types):
            self.unknown.add(_name(func))
        self._derive(func, (args, kwargs), out, product=rule is not None)
        return out

    def _add(self, multiply_adds: int, operands: tuple[Tensor, ...]) -> None:
        """Count a product under the first operand that is a weight, or else the first computed from weights."""
        names = [self._names(t) for t in operands]
        if None not in names and {name for each in names for name in each or ()} & self._computed:
            return  # it computes a weight; the network that is deployed has the result
        weights = [t for t, name in zip(operands, names) if name]
        weights.sort(key=lambda t: not any(storage in self._weights for storage in _storages(t)))
        rest = multiply_adds
        if weights and (total := weights[0].numel()):
            for name, elements, nonzeros in self._shares(weights[0]):
                part, before = multiply_adds * elements // total, self.by_name.get(name, (0, 0))
                # Each element of a weight takes part in the same number of multiply-adds.
                self.by_name[name] = before[0] + part, before[1] + multiply_adds * nonzeros // total
                rest -= part
        self.activations += rest

    def _names(self, t: Tensor) -> tuple[str, ...] | None:
        """The weights in a tensor: () for a constant, None if it follows from the inputs."""
        for storage, part in zip(_storages(t), plain_tensors(t)):
            if storage in self._weights:
                return tuple(name for name, _ in _overlapping(part, self._weights[storage]))
            shares = self._derived.get(storage)
            return None if shares is None else tuple(name for name, *_ in shares)
        return None

    def _shares(self, t: Tensor) -> tuple[Share, ...]:
        """How much of a tensor with weights in it belongs to each of them."""
        storage, part = _storages(t)[0], plain_tensors(t)[0]
        if storage in self._weights:
            owners = _overlapping(part, self._weights[storage])
            if part is t:
                return _split(t, owners)
            shares: tuple[Share, ...] = ((owners[0][0], 0, 0),)
        else:
            shares = self._derived[storage]
        if len(shares) == 1:
            return ((shares[0][0], t.numel(), count_nonzeros(shares[0][0], t)),)
        total = sum(elements for _, elements, _ in shares)
        return tuple((name, t.numel() * a // total, t.numel() * b // total) for name, a, b in shares)

    def _derive(self, func: Any, arguments: Any, out: Any, *, product: bool) -> None:
        """Note whether the results follow from weights and constants alone, and from which weight."""
        tensors = _tensors(arguments)
        names = [self._names(t) for t in tensors]
        weights = [t for t, name in zip(tensors, names) if name]
        shares: tuple[Share, ...] | None = None
        if None not in names:
            shares = self._of_result(func, weights, {name for each in names for name in each or ()}, product)
        elif not product and getattr(func, "namespace", "aten") not in _NAMESPACES and any(t.ndim > 1 for t in weights):
            self.unknown.add(_name(func))
        for storage in (storage for t in _tensors(out) for storage in _storages(t)):
            if shares is None:
                self._derived.pop(storage, None)
            elif storage not in self._weights:
                self._derived[storage] = shares

    def _of_result(self, func: Any, weights: list[Tensor], names: set[str], product: bool) -> tuple[Share, ...]:
        """The shares of weights in the result of an operation on weights and constants."""
        # A product of two layers' weights is a constant (learned queries), within one layer it is the weight (U V).
        if not weights or (product and not (len(names) == 1 and names <= self._computed)):
            return ()
        if getattr(func, "__name__", "").partition(".")[0] in ("cat", "stack"):
            return tuple(share for t in weights for share in self._shares(t))
        largest = max(weights, key=Tensor.numel)  # the others are scales or masks
        found = self._names(largest) or ()
        return ((found[0], 0, 0),) if len(found) == 1 else self._shares(largest)


def _name(func: Any) -> str:
    return str(func).removesuffix(".default")


def _may_hide_products(func: Any, types: Any) -> bool:
    """Whether products may happen inside an operation that is none itself, where the counter does not see them."""
    if isinstance(func, HigherOrderOperator):  # control flow
        return True
    of_others = bool(types) or getattr(func, "namespace", "aten") not in _NAMESPACES
    return of_others and bool(_PRODUCT.search(_name(func)))


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _storages(t: Tensor) -> list[StorageWeakRef]:
    return [StorageWeakRef(part.untyped_storage()) for part in plain_tensors(t)]


def _span(t: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    start = int(t.storage_offset())
    last = start + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
    return start * t.itemsize, (last + 1) * t.itemsize if t.numel() else start * t.itemsize


def _overlapping(t: Tensor, owners: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The weights whose bytes may be among those of a tensor; several only where parameters share a storage."""
    if len(owners) == 1:
        return owners
    low, high = _span(t)
    return [(name, p) for name, p in owners if _span(p)[0] < high and low < _span(p)[1]]


def _split(t: Tensor, owners: list[tuple[str, Tensor]]) -> tuple[Share, ...]:
    """The elements of a tensor by the weights that own them; elements of no weight are in no share."""
    spans = [_span(t), *(_span(p) for _, p in owners)]
    inside = len(owners) == 1 and spans[1][0] <= spans[0][0] and spans[0][1] <= spans[1][1]
    if inside or any(p.itemsize != t.itemsize for _, p in owners):
        return ((owners[0][0], t.numel(), count_nonzeros(owners[0][0], t)),)
    first = min(low for low, _ in spans) // t.itemsize
    labels = torch.zeros(max(high for _, high in spans) // t.itemsize - first, dtype=torch.long)

    def of(part: Tensor) -> Tensor:
        return labels.as_strided(part.shape, part.stride(), part.storage_offset() - first)

    for label, (_, p) in reversed(list(enumerate(owners, 1))):  # the first of two in the same place
        of(p).fill_(label)
    mine, nonzero = of(t).flatten(), (t != 0).flatten().cpu()
    counts = [torch.bincount(x, minlength=len(owners) + 1).tolist()[1:] for x in (mine, mine[nonzero])]
    return tuple((name, a, b) for (name, _), a, b in zip(owners, *counts) if a)
