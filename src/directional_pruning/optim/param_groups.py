"""What is pruned: parameter groups by kind and by name."""

import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..layer_kinds import parameter_kinds

__all__ = ["prunable_groups"]

_KINDS = ("norm", "bias", "embedding", "position", "parametrized")


def prunable_groups(
    model: nn.Module,
    *,
    skip: Iterable[str] = ("norm", "bias", "position"),
    multiply_adds: Mapping[str, int | None] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's parameters into those to prune and those to train without pruning (``c = 0``).

    Pruned are the weights of linear, convolution, recurrent and attention layers and of embeddings, whatever their
    shape, and plain parameters with two or more dimensions above 1, such as a bank of experts.

    Args:
        model: any network; every parameter lands in exactly one group, shared ones once. Quantized parameters (integers
            and floats of less than 16 bits), which no optimizer can train, are in none.
        skip: what is not pruned. A kind, or a pattern for full parameter names such as ``"head.*"`` or
            ``"*.attention.*"``. A shared parameter is skipped if any of its names or owners is. The kinds are

            - ``"norm"``: normalisation layers and every scale, which is a parameter with at most one dimension above 1
              that no layer owns as its weight: LayerScale, a temperature, a class token;
            - ``"bias"``: what is named so, also tables of relative position biases;
            - ``"position"``: tables of positions, tokens, prompts or queries held as plain parameters;
            - ``"embedding"``: tables of ``nn.Embedding``, also those of positions;
            - ``"parametrized"``: tensors from which weight_norm, spectral_norm or another parametrization computes the
              weight. They are never pruned; without this word a warning says so. A zero in them need not be a zero of
              the weight, and weight_norm turns a row that pruning empties into 0/0, so NaN. To prune such a layer, call
              ``torch.nn.utils.parametrize.remove_parametrizations`` first (``remove_weight_norm``,
              ``remove_spectral_norm`` for their hooks).
        multiply_adds: how many each weight takes part in, by its name, for ``Target(..., of="macs")``:
            ``{layer.name: layer.multiply_adds for layer in sparsity_report(model, inputs).layers}``. The group to
            prune gets them as its ``"multiply_adds"``.

    Returns:
        The group to prune and, unless it is empty, the group not to prune, with ``param_names``, for
        :class:`~directional_pruning.GRDA` or any torch optimizer. Where only parametrized weights are left, they are
        the first group, with ``c = 0`` as the second.

    Raises:
        ValueError: for a pattern that matches no parameter, a model with nothing left to prune, a lazy parameter of an
            unknown layer before the model's first run, and a weight to prune that ``multiply_adds`` does not name.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> prune, keep = prunable_groups(model)
        >>> prune["param_names"], keep["param_names"], keep["c"]
        (['0.weight', '2.weight'], ['0.bias', '1.weight', '1.bias', '2.bias'], 0.0)
    """
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    kinds = parameter_kinds(model)
    unmatched = {item for item in skip if item not in _KINDS}
    names: dict[nn.Parameter, str] = {}
    skipped: set[nn.Parameter] = set()
    for name, p in model.named_parameters(remove_duplicate=False):
        if kinds[name] != "quantized":
            names.setdefault(p, name)
        for item in skip:
            if _is_of(item, name, kinds[name]) if item in _KINDS else fnmatchcase(name, item):
                skipped.add(p)
                unmatched.discard(item)
    if unmatched:
        raise ValueError(
            f"invalid skip: {sorted(unmatched)[0]!r} (must be one of {', '.join(_KINDS)}, "
            "or a pattern that matches the name of a parameter)"
        )
    parametrized = {p: name for p, name in names.items() if kinds[name] == "parametrized" and p not in skipped}
    trained = [name for p, name in parametrized.items() if p.requires_grad]
    prune = {p: name for p, name in names.items() if p not in skipped and p not in parametrized}
    # No group is empty: distributed checkpoints cannot load one.
    first = prune or parametrized
    keep = {p: name for p, name in names.items() if p not in first}
    if not prune and not trained:
        raise ValueError(f"nothing to prune: skip={skip} leaves none of the {len(names)} parameters")
    if trained:
        warnings.warn(
            f"not pruned: {len(trained)} parametrized weight(s), first {trained[0]!r}: "
            "a zero there need not be a zero of the weight, and weight_norm makes an empty row NaN (to prune them, "
            "remove the parametrization first; to accept this, add 'parametrized' to skip)",
            UserWarning,
            stacklevel=2,
        )
    groups: list[dict[str, Any]] = [{"params": list(first), "param_names": list(first.values())}]
    if not prune:
        groups[0]["c"] = 0.0
    elif multiply_adds is not None:
        counts = [multiply_adds.get(name) for name in first.values()]
        if None in counts:
            name = list(first.values())[counts.index(None)]
            raise ValueError(f"invalid multiply_adds: none of {name!r} (take those of sparsity_report(model, inputs))")
        groups[0]["multiply_adds"] = counts
    if keep:
        groups.append({"params": list(keep), "param_names": list(keep.values()), "c": 0.0})
    return groups


def _is_of(kind: str, name: str, found: str) -> bool:
    # The bias of a normalisation layer is both.
    return kind == found or (kind == "bias" and found == "norm" and "bias" in name.rpartition(".")[2])
