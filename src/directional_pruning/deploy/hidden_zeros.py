"""Find weights whose zeros a file does not get, because it stores what the weights are computed from."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from ..tensors import count_nonzeros
from ..weights import layer_weights

__all__ = ["hidden_zeros"]


def hidden_zeros(model_or_state_dict: nn.Module | Mapping[str, Tensor]) -> str:
    """One line about weights that are sparse in their layers and dense in the state dict, empty if there is none.

    >>> from torch.nn.utils import prune
    >>> layer = prune.l1_unstructured(nn.Linear(10, 10), "weight", 0.9)
    >>> hidden_zeros(layer) == hidden_zeros(layer.state_dict())
    True
    >>> hidden_zeros(layer).startswith("'weight_orig' is stored with 0% zeros and its layer uses 90%: call torch.nn.")
    True
    """
    source = model_or_state_dict
    found = list(_in_model(source) if isinstance(source, nn.Module) else _in_state(source))
    if not found:
        return ""
    name, stored, used, remedy = found[0]
    others = f"; so are {len(found) - 1} others" if len(found) > 1 else ""
    return f"{name!r} is stored with {stored:.0%} zeros and its layer uses {used:.0%}: call {remedy} first{others}"


def _in_model(model: nn.Module) -> Iterator[tuple[str, float, float, str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    for weight in layer_weights(model):
        if weight.remedy:
            largest = max(weight.sources, key=lambda p: p.numel())
            try:
                value = weight.value()
            except ValueError:  # a hook needs the inputs
                continue
            yield from _hidden(names[id(largest)], largest, value, weight.remedy)


def _in_state(state: Mapping[str, Tensor]) -> Iterator[tuple[str, float, float, str]]:
    for name, original in state.items():
        stem = name.removesuffix("_orig")
        mask = state.get(f"{stem}_mask")
        if stem != name and mask is not None and mask.shape == original.shape and original.is_floating_point():
            remedy = f"torch.nn.utils.prune.remove(layer, {stem.rpartition('.')[2]!r})"
            yield from _hidden(name, original, original * mask, remedy)


def _hidden(name: str, stored: Tensor, used: Tensor, remedy: str) -> Iterator[tuple[str, float, float, str]]:
    before, after = (1 - count_nonzeros(name, t) / max(t.numel(), 1) for t in (stored, used))
    # From a quarter of zeros on a file stores a tensor by its nonzeros.
    if after >= 0.25 and 1 - after < 0.9 * (1 - before):
        yield name, before, after, remedy
