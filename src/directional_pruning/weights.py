"""The weights that layers really use, also where a mask, a hook or a parametrization computes them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune

from .tensors import module_mode, obstacle

__all__ = ["LayerWeight", "layer_weights", "plain_copy", "plain_network"]

# The hooks of torch's old normalizations, by their class.
_NORMS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}


@dataclass(frozen=True, eq=False)
class LayerWeight:
    """One weight that a layer uses, and the parameters that it comes from."""

    name: str
    """Its name in the layer, such as ``0.weight``, also if ``named_parameters`` has another."""
    sources: tuple[nn.Parameter, ...]
    """The parameters it is computed from; of a plain weight itself alone."""
    value: Callable[[], Tensor]
    """Computes it, as in evaluation mode and without a graph."""
    remedy: str = ""
    """What makes it a parameter that has its value; empty if it is one."""


def layer_weights(model: nn.Module) -> list[LayerWeight]:
    """The weights that the layers of a network use, in the order of ``named_parameters``; shared ones once.

    Mostly they are the parameters. A weight may also be computed from them: by a mask of ``torch.nn.utils.prune``, by a
    parametrization (orthogonal, weight norm, spectral norm, one's own), or by a hook before forward (the old weight
    norm and spectral norm). Then it stands in the place of all parameters that it is computed from.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = prune.l1_unstructured(layer, "weight", amount=3)
    >>> [(name, int(p.count_nonzero())) for name, p in layer.named_parameters()]
    [('weight_orig', 4)]
    >>> [(weight.name, int(weight.value().count_nonzero())) for weight in layer_weights(layer)]
    [('weight', 1)]
    """
    users: dict[int, list[LayerWeight]] = {}
    plain: dict[int, str] = {}
    inside: set[nn.Module] = set()
    for prefix, module in model.named_modules():
        if module in inside:
            continue
        if type(module).__module__.startswith("torch.ao.nn.quantized") and not list(module.parameters()):
            remedy = "give the network as it was before torch quantized it"
            raise ValueError(
                f"cannot read the weights of {prefix!r}, a {type(module).__name__}: it packs them ({remedy})"
            )
        computed = list(_computed(prefix, module, inside))
        hidden = {id(p) for weight in computed for p in weight.sources}
        for name, p in module.named_parameters(prefix, recurse=False):
            if id(p) not in hidden:
                plain.setdefault(id(p), name)
        for weight in computed:
            others = users.setdefault(id(weight.sources[0]), [])
            if not any(_are_equal(weight, other) for other in others):
                for p in weight.sources:
                    users.setdefault(id(p), []).append(weight)
    weights: dict[int, LayerWeight] = {}
    for name, p in model.named_parameters():
        if id(p) in plain:
            name = plain[id(p)] if id(p) in users else name
            weights[id(p)] = LayerWeight(name, (p,), partial(_plain, name, p))
        for weight in users.get(id(p), ()):
            weights.setdefault(id(weight), weight)
    return list(weights.values())


def _plain(name: str, p: nn.Parameter) -> Tensor:
    if is_lazy(p):
        raise ValueError(f"cannot read the weight {name!r}: {obstacle(p)}")
    return p.detach()


def _are_equal(weight: LayerWeight, other: LayerWeight) -> bool:
    """Whether two layers share one weight: the same parameters, by the same computation."""
    if [id(p) for p in weight.sources] != [id(p) for p in other.sources] or weight.remedy != other.remedy:
        return False
    return bool(torch.equal(weight.value(), other.value()))


def _computed(prefix: str, module: nn.Module, inside: set[nn.Module]) -> Iterator[LayerWeight]:
    """The weights of one module that are computed; adds the modules of its parametrizations to ``inside``."""
    path = f"{prefix}." if prefix else ""
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        inside.update(lists.modules())
        for name, transforms in lists.items():
            if sources := tuple(transforms.parameters()):
                remedy = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
                yield LayerWeight(path + name, sources, partial(_parametrized, module, name), remedy)
    for name, remedy in _hooked(module).items():
        own = dict(module.named_parameters(recurse=False))
        sources = tuple(p for key, p in own.items() if key.startswith(f"{name}_"))
        sources = sources or tuple(p for key, p in own.items() if key != "bias")
        if sources:
            yield LayerWeight(path + name, sources, partial(_from_hooks, module, name, path + name), remedy)


@torch.no_grad()
def _parametrized(module: nn.Module, name: str) -> Tensor:
    with module_mode(module, training=False):  # else a spectral norm would move its vectors
        return getattr(module, name).detach()


def _hooked(module: nn.Module) -> dict[str, str]:
    """The tensors that hooks before forward set, each with what removes the hook."""
    found = {}
    hooks: Any = module._forward_pre_hooks.values()
    for hook in hooks:
        if isinstance(hook, prune.BasePruningMethod):
            found[hook._tensor_name] = f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})"
        elif kind := _NORMS.get(type(hook).__name__):
            found[hook.name] = f"torch.nn.utils.remove_{kind}(layer, {hook.name!r})"
    # A layer of torch's own has its weight as a parameter, unless somebody's hook sets it.
    if module._forward_pre_hooks and type(module).__module__.startswith("torch.nn."):
        names = [name for name, t in vars(module).items() if isinstance(t, Tensor) and name.startswith("weight")]
        for name in names:
            found.setdefault(name, f"nn.Parameter(layer.{name}.detach()), and remove the hook that sets it")
    return found


@torch.no_grad()
def _from_hooks(module: nn.Module, name: str, path: str) -> Tensor:
    """The tensor that the hooks set now; the attribute of the layer is that of its last forward pass."""
    layer = copy.copy(module)  # so that neither the tensor nor the mode of the layer itself changes
    layer.training = False
    before = getattr(layer, name, None)
    for key, hook in module._forward_pre_hooks.items():
        from_torch = isinstance(hook, prune.BasePruningMethod) or type(hook).__name__ in _NORMS
        try:
            hook(layer, (), {}) if key in module._forward_pre_hooks_with_kwargs else hook(layer, ())
        except Exception:
            if from_torch:
                raise
    value = getattr(layer, name, None)
    if not isinstance(value, Tensor) or value is before:
        raise ValueError(f"cannot tell the weight {path!r}: a hook sets it (make it a parameter, remove the hook)")
    return value.detach()


def plain_network(model: nn.Module) -> nn.Module:
    """The network itself, not compiled; a :func:`plain_copy` of it if one of its weights is computed."""
    model = getattr(model, "_orig_mod", model)
    return plain_copy(model) if any(weight.remedy for weight in layer_weights(model)) else model


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy in which every weight that is computed is a parameter with the value it has in evaluation mode.

    Raises ValueError, with the name, for a weight that a hook other than torch's own sets.
    """
    # torch refuses to copy the tensors that hooks left in the layers: they have a graph.
    tensors = [t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor)]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in tensors if not t.is_leaf}
    network = copy.deepcopy(model, memo).eval()
    inside: set[nn.Module] = set()
    for module in list(network.modules()):
        if module in inside:
            continue
        if parametrize.is_parametrized(module):
            _remove_parametrizations(module, inside)
        for name, remedy in _hooked(module).items():
            remove = _REMOVERS.get(remedy.partition("(")[0])
            if remove is None:
                raise ValueError(f"cannot copy the weight {name!r} that a hook sets (first {remedy})")
            remove(module, name)
    return network


def _remove_parametrizations(module: nn.Module, inside: set[nn.Module]) -> None:
    # torch's own function would change the class, which the copy shares with the original.
    lists: Any = module.parametrizations
    inside.update(lists.modules())
    values = {name: getattr(module, name).detach().clone() for name in lists}
    trained = {name: any(p.requires_grad for p in lists[name].parameters()) for name in lists}
    parameters = {name for name in lists if any(True for _ in lists[name].parameters())}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if name in parameters:
            module.register_parameter(name, nn.Parameter(value, trained[name]))
        else:
            module.register_buffer(name, value)


_REMOVERS: dict[str, Callable[[nn.Module, str], Any]] = {
    "torch.nn.utils.prune.remove": prune.remove,
    "torch.nn.utils.remove_weight_norm": nn.utils.remove_weight_norm,
    "torch.nn.utils.remove_spectral_norm": nn.utils.remove_spectral_norm,
}
