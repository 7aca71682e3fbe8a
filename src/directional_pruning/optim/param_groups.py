"""What is pruned: parameter groups by module kind and by name."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

__all__ = ["prunable_groups"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

# Kind -> does this parameter of this module belong to it.
_KINDS: dict[str, Callable[[nn.Module, str, nn.Parameter], bool]] = {
    # One-dimensional is every scale, in a normalisation layer or outside (LayerScale, PReLU); matrices never are.
    "norm": lambda module, name, p: isinstance(module, _NORMS) or (p.ndim < 2 and "bias" not in name),
    "bias": lambda module, name, p: "bias" in name,
    "embedding": lambda module, name, p: isinstance(module, nn.Embedding | nn.EmbeddingBag),
}


def prunable_groups(model: nn.Module, *, skip: Iterable[str] = ("norm", "bias")) -> list[dict[str, Any]]:
    """Split a model's parameters into those to prune and those to train without pruning (``c = 0``).

    Args:
        model: any network; every parameter lands in exactly one group, shared ones once.
        skip: what is not pruned. A kind: ``"norm"`` (normalisation layers and every other one-dimensional scale),
            ``"bias"``, ``"embedding"``; or a pattern for full parameter names such as ``"head.*"`` or
            ``"*.attention.*"``. A shared parameter is skipped if any of its names or owners is.

    Returns:
        Up to two parameter groups for :class:`~directional_pruning.GRDA` or any torch optimizer, with ``param_names``.

    Raises:
        ValueError: for a pattern that matches no parameter, and for a model with nothing left to prune.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> prune, keep = prunable_groups(model)
        >>> prune["param_names"], keep["param_names"], keep["c"]
        (['0.weight', '2.weight'], ['0.bias', '1.weight', '1.bias', '2.bias'], 0.0)
    """
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    unmatched = {item for item in skip if item not in _KINDS}
    names: dict[nn.Parameter, str] = {}
    skipped: set[nn.Parameter] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            full_name = f"{prefix}.{name}" if prefix else name
            names.setdefault(p, full_name)
            for item in skip:
                if _KINDS[item](module, name, p) if item in _KINDS else fnmatchcase(full_name, item):
                    skipped.add(p)
                    unmatched.discard(item)
    if unmatched:
        raise ValueError(f"invalid skip: {sorted(unmatched)[0]!r} (neither {', '.join(_KINDS)} nor a parameter's name)")
    prune = {p: name for p, name in names.items() if p not in skipped}
    keep = {p: name for p, name in names.items() if p in skipped}
    if not prune:
        raise ValueError(f"nothing to prune: skip={skip} leaves none of the {len(names)} parameters")
    groups: list[dict[str, Any]] = [{"params": list(prune), "param_names": list(prune.values())}]
    if keep:
        groups.append({"params": list(keep), "param_names": list(keep.values()), "c": 0.0})
    return groups
