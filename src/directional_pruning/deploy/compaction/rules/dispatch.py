"""The tables that say which rule an operation follows. To support an operation, add its name here.

A name is that of the function, method or module class, in lower case and without "_" at the end: ``relu`` covers
``F.relu``, ``x.relu_()`` and ``nn.ReLU``. A value is a subclass of :class:`Rule`, or a function with the same arguments
that builds one. An operation in no table keeps all of its inputs and outputs, and a warning names it.
"""

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from ..graph import BATCH_NORMS, CONVOLUTIONS, is_plain, operation_name
from . import channelwise
from .attention import Attention, MatrixProduct
from .base import KeepAll, Rule, UnknownOperationError, UnsupportedError
from .elementwise import Elementwise, Product, cast
from .layers import Affine, BatchNorm, Embedding
from .reads import Attribute, Item, Metadata, ShapeOf
from .views import Movement

_Build = Callable[[fx.Node, fx.GraphModule, dict[fx.Node, Rule]], Rule]


def _names(build: _Build, names: str) -> dict[str, _Build]:
    return dict.fromkeys(names.split(), build)


# Modules with weights, by their class.
_LAYERS: dict[type[nn.Module], _Build] = {
    **dict.fromkeys((nn.Linear, *CONVOLUTIONS), Affine),
    **dict.fromkeys(BATCH_NORMS, BatchNorm),
    nn.Embedding: Embedding,
}  # fmt: skip

# Operations of any number of tensors.
_OPERATIONS: dict[str, _Build] = {
    **_names(Elementwise, """
        add iadd sub isub subtract rsub div idiv truediv itruediv divide true_divide maximum minimum where masked_fill
        relu relu6 leakyrelu leaky_relu elu selu celu gelu silu mish sigmoid tanh hardtanh hardsigmoid hardswish
        logsigmoid softplus softsign softshrink hardshrink tanhshrink threshold clamp clip clamp_min clamp_max abs
        absolute neg exp expm1 log log1p sqrt rsqrt square pow reciprocal sin cos tan atan arctan erf sign floor ceil
        round nan_to_num float double half bfloat16 clone detach identity positive
    """),
    **_names(Product, "mul imul multiply"),
    **_names(cast, "to type"),
    **_names(channelwise.dropout, """
        dropout dropout1d dropout2d dropout3d alphadropout alpha_dropout featurealphadropout feature_alpha_dropout
        stochasticdepth stochastic_depth
    """),
    **_names(Movement, "cat concat concatenate stack"),
    **_names(MatrixProduct, "matmul bmm"),
    **_names(Attention, "scaled_dot_product_attention"),
    **_names(ShapeOf, "size shape"),
    **_names(Metadata, "dtype device layout ndim dim is_cuda requires_grad is_floating_point"),
    # They mix the channels by design, so that all of them must remain.
    **_names(KeepAll, """
        layernorm layer_norm rmsnorm rms_norm groupnorm group_norm instancenorm1d instancenorm2d instancenorm3d
        instance_norm localresponsenorm local_response_norm normalize max min argmax norm std var prod cumsum eq ne lt
        le gt ge logical_and logical_or logical_not invert and or tril triu zeros_like ones_like full_like
    """),
}  # fmt: skip

# Operations of one tensor: with more tensors (an index, for example) they have no rule.
_OPERATIONS_ON_ONE_TENSOR: dict[str, _Build] = {
    **_names(Movement, """
        view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t contiguous squeeze
        unsqueeze expand repeat repeat_interleave tile chunk split unbind select narrow getitem roll flip
        channel_shuffle channelshuffle pixel_shuffle pixelshuffle pixel_unshuffle pixelunshuffle
    """),
    **_names(channelwise.max_pool, "max_pool1d max_pool2d max_pool3d maxpool1d maxpool2d maxpool3d"),
    **_names(channelwise.avg_pool, "avg_pool1d avg_pool2d avg_pool3d avgpool1d avgpool2d avgpool3d"),
    **_names(channelwise.adaptive_pool, """
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptivemaxpool1d adaptivemaxpool2d adaptivemaxpool3d
        adaptiveavgpool1d adaptiveavgpool2d adaptiveavgpool3d
    """),
    **_names(channelwise.other_pool, """
        lp_pool1d lp_pool2d lp_pool3d lppool1d lppool2d lppool3d
        fractional_max_pool2d fractional_max_pool3d fractionalmaxpool2d fractionalmaxpool3d
    """),
    **_names(channelwise.resize, "interpolate upsample upsamplingnearest2d upsamplingbilinear2d"),
    **_names(channelwise.pad, "pad"),
    **_names(channelwise.softmax, "softmax log_softmax logsoftmax"),
    **_names(channelwise.add_up, "sum"),
    **_names(channelwise.average, "mean amax amin"),
}  # fmt: skip


def rule_for(
    node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule], *, exclusive: bool, unknown: list[str]
) -> Rule:
    """The rule of one node; its inputs must have their rules already.

    Args:
        exclusive: whether no other node uses the weights of this one.
        unknown: the name of an operation without a rule is appended to it.
    """
    name = operation_name(network, node).lower().rstrip("_")
    if name == "getattr":
        name = str(node.args[1])
    try:
        return _choose(node, network, rules, name, exclusive)(node, network, rules)
    except UnknownOperationError as error:
        unknown.append(str(error) or name)
    except UnsupportedError:
        pass
    return KeepAll(node, network, rules)


def _choose(node: fx.Node, network: fx.GraphModule, rules: dict[fx.Node, Rule], name: str, exclusive: bool) -> _Build:
    if node.op == "get_attr":
        return Attribute if exclusive and isinstance(node.meta["example"], Tensor) else KeepAll
    if node.op == "output" or not any(rules[operand].outputs for operand in node.all_input_nodes):
        return KeepAll
    if node.op == "call_module":
        module: Any = network.get_submodule(str(node.target))
        if is_plain(module, tuple(_LAYERS)):
            return _LAYERS[type(module)] if exclusive else KeepAll
        if not is_plain(module, (type(module),)) or not type(module).__module__.startswith("torch."):
            raise UnknownOperationError(type(module).__name__)
    elif node.target is operator.getitem and not isinstance(node.all_input_nodes[0].meta["example"], Tensor):
        return Item
    if name in _OPERATIONS:
        return _OPERATIONS[name]
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta["example"], Tensor)]
    if len(tensors) != 1 or name not in _OPERATIONS_ON_ONE_TENSOR:
        raise UnknownOperationError
    return _OPERATIONS_ON_ONE_TENSOR[name]
