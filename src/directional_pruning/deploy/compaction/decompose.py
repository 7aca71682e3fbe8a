"""Decompose the transformer modules of ``torch.nn`` into layers, so that their channels can be removed."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def decompose(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute what the module does in evaluation mode, by calls of its layers.

    NotImplemented for any other module, for a call with a mask, and for attention that returns its weights.
    """
    if type(module) not in (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention):
        return NotImplemented
    count = 3 if isinstance(module, nn.MultiheadAttention) else 1
    if any(x is not None and x is not False for x in (*args[count:], *kwargs.values())) or len(args) < count:
        return NotImplemented
    if isinstance(module, nn.TransformerEncoder):
        return _encoder(module, *args[:1])
    if isinstance(module, nn.TransformerEncoderLayer):
        return _encoder_layer(module, *args[:1])
    # By default attention returns its weights too.
    if isinstance(module, nn.MultiheadAttention) and kwargs.get("need_weights") is False:
        return _attention(module, *args[:3])
    return NotImplemented


def _encoder(module: nn.TransformerEncoder, x: Any) -> Any:
    for layer in module.layers:
        x = layer(x)
    return x if module.norm is None else module.norm(x)


def _encoder_layer(module: nn.TransformerEncoderLayer, x: Any) -> Any:
    def attend(x: Any) -> Any:
        return module.dropout1(module.self_attn(x, x, x, need_weights=False)[0])

    def feed_forward(x: Any) -> Any:
        return module.dropout2(module.linear2(module.dropout(module.activation(module.linear1(x)))))

    if module.norm_first:
        x = x + attend(module.norm1(x))
        return x + feed_forward(module.norm2(x))
    x = module.norm1(x + attend(x))
    return module.norm2(x + feed_forward(x))


def _attention(module: Any, *inputs: Any) -> Any:
    if not hasattr(module, "q_proj"):
        return NotImplemented
    heads = []
    for x, layer in zip(inputs, (module.q_proj, module.k_proj, module.v_proj)):
        x = layer(x if module.batch_first else x.transpose(0, -2))
        heads.append(x.unflatten(-1, (module.num_heads, module.head_dim)).transpose(-3, -2))
    x = module.out_proj(F.scaled_dot_product_attention(*heads).transpose(-3, -2).flatten(-2))
    return (x if module.batch_first else x.transpose(0, -2)), None


def split_projections(model: nn.Module) -> None:
    """Give every ``MultiheadAttention`` its projections as linear layers too, for ``decompose`` to call."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn:
            weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            if module.in_proj_weight is not None:
                weights = module.in_proj_weight.chunk(3)
            biases: Any = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
            for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases):
                module.add_module(name, _linear(weight, bias))
            module.add_module("out_proj", _linear(module.out_proj.weight, module.out_proj.bias))


def drop_projections(model: nn.Module) -> None:
    """Undo ``split_projections`` in the modules that were not decomposed."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and hasattr(module, "q_proj"):
            del module.q_proj, module.k_proj, module.v_proj


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer
