"""The kind of every parameter of a network: a weight that may be pruned, or a scale, bias, position table, ..."""

import re

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

__all__ = ["KINDS", "PRUNABLE", "parameter_kinds"]

# A parameter with several owners has the first of their kinds.
KINDS = ("quantized", "parametrized", "norm", "position", "bias", "embedding", "weight")
PRUNABLE = frozenset({"weight", "embedding"})

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
# The names that these layers give their weights; torch.nn.utils.prune and old hooks add "_orig".
_WEIGHT = re.compile(r"((in|[qkv])_proj_)?weight(_(ih|hh|hr)\w*)?(_orig)?")
_LISTS = (nn.ParameterList, nn.ParameterDict)

# Words of a name, asked only where neither the owner nor the shape decides.
_MATRIX = re.compile(r"weights?|kernels?|filters?|conv|proj(ections?)?|matrix")
# The zero of a logarithm is a one.
_SCALE = re.compile(
    r"(layer)?scales?|gains?|alphas?|betas?|gammas?|lambdas?|temp|temperatures?|tau|log"
    r"|scaling|rescale|multipliers?|shifts?|offsets?|mu|sigma|means?|std|freqs?"
)
_POSITION = re.compile(
    r"w?pe|pos|positions?|positional|rel|relative|cls|registers?|prompts?|prefix|ctx|quer(y|ies)|latents?|null|mem"
    r"|memory|tables?|slots?|sos|eos|sinks?|anchors?"
    r"|(pos|cls|rel|abs)?(tok|tokens?|emb|embeds?|embeddings?|enc|encodings?)"
)


def parameter_kinds(model: nn.Module) -> dict[str, str]:
    """The kind of every parameter, by its name; a shared parameter is under each of its names.

    The owner decides first, then the shape, and the name last:

    - ``"weight"``: the weight of a linear, convolution, recurrent or attention layer, of any shape; and every other
      parameter with two or more dimensions above 1 that is none of the following, such as a bank of experts.
    - ``"embedding"``: the table of an ``nn.Embedding`` or ``nn.EmbeddingBag``, also one of positions.
    - ``"norm"``: all of a normalisation layer, and every scale: a parameter with at most one dimension above 1 that
      no layer owns as its weight (LayerScale, a temperature, the magnitude of weight_norm, a class token).
    - ``"bias"``: what is named so, also a table of relative position biases, and an embedding in an attribute named so.
    - ``"position"``: tables of positions, tokens, prompts or queries that are plain parameters. They are known by a
      dimension of 1 before the last one, which is broadcast, or by a word of their name.
    - ``"parametrized"``: what ``torch.nn.utils.parametrize`` or a hook (weight_norm, spectral_norm) turns into the
      weight. A zero in it need not be a zero of the weight, and weight_norm makes an empty row 0/0.
    - ``"quantized"``: integers and floats of less than 16 bits.

    Only ``"weight"`` and ``"embedding"`` are prunable.

    Raises:
        ValueError: for a lazy parameter of an unknown layer, whose shape is not known before the first run.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))
        >>> model.scale = nn.Parameter(torch.ones(4, 1, 1))
        >>> parameter_kinds(model)["0.weight"], parameter_kinds(model)["0.bias"], parameter_kinds(model)["scale"]
        ('weight', 'bias', 'norm')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"invalid model: {type(model).__name__} (must be a torch.nn.Module)")
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds: dict[nn.Parameter, str] = {}
    names: dict[str, nn.Parameter] = {}
    for path, module in modules.items():
        for field, p in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{field}" if path else field
            kind = _kind(module, field, p, name, modules)
            names[name] = p
            kinds[p] = min(kind, kinds.get(p, kind), key=KINDS.index)
    return {name: kinds[p] for name, p in names.items()}


def _kind(module: nn.Module, field: str, p: nn.Parameter, name: str, modules: dict[str, nn.Module]) -> str:
    if not p.is_complex() and not (p.is_floating_point() and p.dtype.itemsize >= 2):
        return "quantized"
    label = _label(name, modules)
    vector = not is_lazy(p) and _is_vector(p)
    if _is_parametrized(module, field, name, modules):
        return "bias" if "bias" in label else "norm" if vector else "parametrized"
    if isinstance(module, _NORMS):
        return "norm"
    if isinstance(module, _EMBEDDINGS) and field == "weight":
        return "bias" if "bias" in name.rpartition(".")[0].rpartition(".")[2] else "embedding"
    if isinstance(module, _LAYERS) and _WEIGHT.fullmatch(field):
        return "weight"
    if "bias" in label:
        return "bias"
    if field == "weight" and _looks_like_a_layer(module):
        return "weight"
    if is_lazy(p):
        raise ValueError(f"invalid model: {name!r} has no shape yet (run the model once first)")
    return "norm" if vector or re.search(r"Norm(\d?[dD])?$", type(module).__name__) else _by_name(module, label, p)


def _is_vector(p: nn.Parameter) -> bool:
    return sum(size != 1 for size in p.shape) < 2


def _label(name: str, modules: dict[str, nn.Module]) -> str:
    """The attribute that holds the parameter: of an entry of a list or dictionary, with the name of the list."""
    path, _, label = name.rpartition(".")
    while path and isinstance(modules[path], (*_LISTS, ParametrizationList)):
        path, _, last = path.rpartition(".")
        label = f"{last}_{label}"
    return label


def _is_parametrized(module: nn.Module, field: str, name: str, modules: dict[str, nn.Module]) -> bool:
    parts = name.split(".")
    if any(isinstance(modules[".".join(parts[:end])], ParametrizationList) for end in range(len(parts))):
        return True
    # The hooks of torch.nn.utils: g v / |v| of weight_norm, and weight / sigma of spectral_norm with its buffer u.
    stem = field[:-2]
    if field.endswith(("_g", "_v")) and {f"{stem}_g", f"{stem}_v"} <= module._parameters.keys():
        magnitude = module._parameters[f"{stem}_g"]
        return magnitude is not None and _is_vector(magnitude)
    return field.endswith("_orig") and f"{field.removesuffix('_orig')}_u" in module._buffers


def _looks_like_a_layer(module: nn.Module) -> bool:
    """Whether a class that is not torch's tells its inputs and outputs, as linear layers and convolutions do."""
    return any(hasattr(module, f"in_{of}") and hasattr(module, f"out_{of}") for of in ("features", "channels"))


def _by_name(module: nn.Module, label: str, p: nn.Parameter) -> str:
    """The kind of a parameter with two or more real dimensions that no known layer owns."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", label)]
    if any(map(_SCALE.fullmatch, words)) and not _MATRIX.fullmatch(words[-1]):
        return "norm"
    owner = type(module).__name__
    if words == ["weight"] and re.search(r"Scale(Layer)?$|^Affine", owner):
        return "norm"
    if label.lower() in ("w_pos", "h0", "c0") or re.search(r"Pos[a-z]*(Emb|Enc)[a-z]*(\d?[dD])?$", owner):
        return "position"
    one_of_three = words[-1:] == ["query"] and any("key" in other for other in module._parameters)
    if words == ["weight"] and "Embedding" in owner:
        return "embedding"
    if one_of_three or words[:1] == ["w"] or any(map(_MATRIX.fullmatch, words)):
        return "weight"
    broadcast = p.ndim > 2 and 1 in p.shape[:-1]
    return "position" if broadcast or any(map(_POSITION.fullmatch, words)) else "weight"
