"""Which rule an operation follows."""

import inspect
import operator
from typing import Any

from torch import Tensor, fx, nn

from ..trace import BATCH_NORMS, CONVOLUTIONS, is_plain, name_of
from .attention import Attention, MatrixProduct
from .base import Attribute, Item, Rule, ShapeOf, Silent, UnsupportedError
from .elementwise import Elementwise, PerChannel, Product, Reduction
from .layers import Affine, BatchNorm, Embedding
from .views import Movement


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of functions, methods and modules in lower case, without "_" at the end.
_ELEMENTWISE = _words("""
    add iadd sub isub subtract rsub div idiv truediv itruediv divide true_divide maximum minimum where masked_fill
    relu relu6 leakyrelu leaky_relu elu selu celu gelu silu mish sigmoid tanh hardtanh hardsigmoid hardswish
    logsigmoid softplus softsign softshrink hardshrink tanhshrink threshold clamp clip clamp_min clamp_max abs
    absolute neg exp expm1 log log1p sqrt rsqrt square pow reciprocal sin cos tan atan arctan erf sign floor ceil
    round nan_to_num float double half bfloat16 to type clone detach identity dropout dropout1d dropout2d dropout3d
    alphadropout alpha_dropout featurealphadropout feature_alpha_dropout stochasticdepth stochastic_depth positive
""")  # fmt: skip
_PRODUCTS = ("mul", "imul", "multiply")
_MOVEMENTS = _words("""
    view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t contiguous squeeze
    unsqueeze expand repeat repeat_interleave tile chunk split unbind select narrow getitem roll flip
    channel_shuffle channelshuffle pixel_shuffle pixelshuffle pixel_unshuffle pixelunshuffle
""")  # fmt: skip
_JOINS = ("cat", "concat", "concatenate", "stack")
_RANDOM = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "stochastic_depth",
)
# They mix the channels by design: nothing to tell the user.
_MIXING = _words("""
    layernorm layer_norm rmsnorm rms_norm groupnorm group_norm instancenorm1d instancenorm2d instancenorm3d
    instance_norm localresponsenorm local_response_norm normalize max min argmax norm std var prod cumsum eq ne lt
    le gt ge logical_and logical_or logical_not invert and or tril triu zeros_like ones_like full_like
""")  # fmt: skip
_HARMLESS = ("dtype", "device", "layout", "ndim", "dim", "is_cuda", "requires_grad", "is_floating_point")
_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def rule_for(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule], once: bool, notes: list[str]) -> Rule:
    """The rule of one node, its inputs having theirs; ``once``: whether its weights are used here only.

    Appends to ``notes`` the name of an operation that is not known.
    """
    given = (node, network, rules)
    try:
        return _choose(node, given, once, notes)
    except UnsupportedError:
        return Rule(*given)


def _choose(node: fx.Node, given: tuple, once: bool, notes: list[str]) -> Rule:
    network, rules = given[1:]
    if node.op == "get_attr":
        return Attribute(*given) if once and isinstance(node.meta["example"], Tensor) else Rule(*given)
    if node.op == "output" or not any(rules[operand].outs for operand in node.all_input_nodes):
        return Rule(*given)
    name = name_of(network, node).lower().rstrip("_")
    if node.op == "call_module":
        return _choose_module(network.get_submodule(str(node.target)), name, given, once, notes)
    if name == "getattr":
        name = str(node.args[1])
    if name in ("size", "shape"):
        return ShapeOf(*given)
    if name in _HARMLESS:
        return Silent(*given)
    if node.target is operator.getitem and not isinstance(node.all_input_nodes[0].meta["example"], Tensor):
        return Item(*given)
    return _choose_function(name, given, _arguments(node, name), notes)


def _choose_module(module: nn.Module, name: str, given: tuple, once: bool, notes: list[str]) -> Rule:
    if is_plain(module, (nn.Linear, *CONVOLUTIONS, *BATCH_NORMS, nn.Embedding)):
        if not once:
            raise UnsupportedError
        if isinstance(module, BATCH_NORMS):
            return BatchNorm(*given)
        return Embedding(*given) if isinstance(module, nn.Embedding) else Affine(*given)
    if not is_plain(module, (type(module),)) or not type(module).__module__.startswith("torch."):
        notes.append(type(module).__name__)
        raise UnsupportedError
    return _choose_function(name, given, vars(module), notes)


def _choose_function(name: str, given: tuple, arguments: dict[str, Any], notes: list[str]) -> Rule:
    node = given[0]
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta["example"], Tensor)]
    if name == "scaled_dot_product_attention":
        return Attention(*given)
    if name in ("matmul", "bmm"):
        return MatrixProduct(*given)
    if name in _JOINS:
        return Movement(*given)
    if name in _PRODUCTS:
        return Product(*given)
    if name in _RANDOM and arguments.get("training", True) is not False:
        return PerChannel(*given)  # nothing is constant
    if name in _ELEMENTWISE:
        if name in ("to", "type") and len(tensors) > 1:
            raise UnsupportedError
        return Elementwise(*given)
    if len(tensors) != 1:
        if name not in _MIXING:
            notes.append(name)
        raise UnsupportedError
    if name in _MOVEMENTS:
        return Movement(*given)
    rule = _per_channel(name, given, arguments, tensors[0].meta["example"].ndim)
    if rule is None:
        if name not in _MIXING:
            notes.append(name)
        raise UnsupportedError
    return rule


def _per_channel(name: str, given: tuple, arguments: dict[str, Any], ndim: int) -> Rule | None:
    """The rule of an operation that treats each channel by itself, or None."""
    if "pool" in name:
        spatial = tuple(range(-int(name[-2]), 0)) if name[-2:] in ("1d", "2d", "3d") else ()
        return PerChannel(*given, dims=spatial, **_pool_keeps(name, arguments)) if spatial else None
    if name in ("interpolate", "upsample", "upsamplingnearest2d", "upsamplingbilinear2d"):
        return PerChannel(*given, dims=tuple(range(2 - ndim, 0)), constant=True)
    if name == "pad":
        sides = arguments["pad"]
        dims = tuple(-1 - i // 2 for i, size in enumerate(sides) if size != 0)
        zeros = arguments.get("mode", "constant") == "constant"
        return PerChannel(*given, dims=dims, zero=not arguments.get("value"), constant=not zeros)
    dim = arguments.get("dim", arguments.get("axis"))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if not all(isinstance(d, int) for d in dims):
        return None
    dims = tuple(d if d < 0 else d - ndim for d in dims)
    if name in ("softmax", "log_softmax", "logsoftmax"):
        return PerChannel(*given, dims=dims)
    if name in ("mean", "amax", "amin", "sum"):
        return Reduction(*given, dims=dims, zero=True, constant=name != "sum")
    return None


def _pool_keeps(name: str, arguments: dict[str, Any]) -> dict[str, bool]:
    """Whether pooling leaves a zero, and any constant, what it is, at the borders too."""
    if name.startswith("adaptive"):
        return {"zero": True, "constant": True}
    if name.startswith("max"):
        # Every window holds an element of the input, unless it is dilated.
        return {"constant": arguments.get("dilation", 1) in (1, (1, 1), (1, 1, 1), [1, 1])}
    if name.startswith("avg"):
        padding = arguments.get("padding", 0)
        padded = any(padding) if isinstance(padding, (tuple, list)) else padding != 0
        counted = padded and arguments.get("count_include_pad", True)
        return {"zero": True, "constant": not counted and arguments.get("divisor_override") is None}
    return {}


def _arguments(node: fx.Node, name: str) -> dict[str, Any]:
    """The arguments of a call by name, as far as the rules ask for them."""
    try:
        bound = dict(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method, or written in C
        bound = {}
    if bound and "args" not in bound:
        return bound
    names: tuple[str, ...] = ("input", "dim")
    if "pool" in name:
        names = _MAX_POOL if name.startswith("max") else _AVG_POOL
    return dict(zip(names, node.args)) | dict(node.kwargs)
