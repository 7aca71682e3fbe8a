"""Attention: its heads, the dimensions that queries and keys share, and those of the values."""

from typing import Any

import torch

from ..masks import ChannelMasks, align, any_to_size
from .base import Rule, UnsupportedError

_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class Attention(Rule):
    """``scaled_dot_product_attention``: softmax(q k' / sqrt(d)) v over tensors (..., heads, tokens, dimension)."""

    def find_constants(self) -> list[ChannelMasks]:
        call: dict[str, Any] = {**dict(zip(_ARGUMENTS, self.node.args)), **self.node.kwargs}
        nodes = [call[name] for name in ("query", "key", "value")]
        mask = call.get("attn_mask")
        if call.get("enable_gqa") or call.get("dropout_p", 0.0) != 0.0 or any(n not in self.rules for n in nodes):
            raise UnsupportedError
        self.mask = self.rules[mask].output if mask in self.rules else None
        self.q, self.k, self.v = (self.rules[n].output for n in nodes)
        scale = call.get("scale")
        self.scale = self.q.shape[-1] ** -0.5 if scale is None else scale
        heads = {(m.shape[:-2], m.constant.shape[:-2]) for m in (self.q, self.k, self.v)}
        if len(heads) > 1 or any(m.constant.ndim < 3 or not m.is_broadcast(-2) for m in (self.q, self.k, self.v)):
            raise UnsupportedError
        if self.mask is not None and self.mask.constant.numel() > 1:
            raise UnsupportedError
        # A weighted mean of a constant is that constant; under a mask the weights of a row may all be zero.
        constant = self.v.constant if self.mask is None else self.v.zero
        return [ChannelMasks(tuple(self.node.meta["example"].shape), constant, self.v.value)]

    def find_needed(self) -> None:
        self.v.mark_needed(self.output.needed)
        heads = any_to_size(self.output.needed, (*self.output.needed.shape[:-1], 1))
        factors = heads & ~(self.q.zero | self.k.zero)
        for masks in (self.q, self.k):
            masks.mark_needed(factors)
            masks.remaining |= factors  # a constant other than zero is still a factor
        if self.mask is not None:
            self.mask.mark_needed(torch.ones_like(self.mask.needed))

    def propagate(self) -> None:
        if self.q.constant.shape != self.k.constant.shape:
            self.q.remaining.fill_(True)
            self.k.remaining.fill_(True)
        align([self.q.remaining, self.k.remaining])
        align([self.v.remaining, self.output.remaining])
        align([self.q.remaining, self.v.remaining], skip_last=True)
        if self.mask is not None:
            self.mask.remaining.fill_(True)

    def rewrite(self) -> None:
        if self.q.shrinks:
            # By default the scale follows from the dimension, which is smaller now.
            self.node.kwargs = {**self.node.kwargs, "scale": self.scale}


class MatrixProduct(Rule):
    """``a @ b`` of two tensors of the graph, as in attention that is written out: q k', or its softmax times v."""

    def find_constants(self) -> list[ChannelMasks]:
        if len(self.inputs) != 2 or [*self.node.args] != self.input_nodes:
            raise UnsupportedError
        self.a, self.b = self.inputs
        heads = {(m.shape[:-2], m.constant.shape[:-2]) for m in self.inputs}
        if len(heads) > 1 or any(m.constant.ndim < 3 for m in self.inputs) or not self.a.is_broadcast(-2):
            raise UnsupportedError
        # Either both have channels in the dimension that is summed over, or only b may have them, in its last.
        self.sums_channels = not self.a.is_broadcast(-1)
        if self.b.is_broadcast(-2) == self.sums_channels or (self.sums_channels and not self.b.is_broadcast(-1)):
            raise UnsupportedError
        # A sum of other constants than zero depends on how many products it has.
        zero = self.a.zero.all(-1, keepdim=True) | self.b.zero.all(-2, keepdim=True)
        shape = tuple(self.node.meta["example"].shape)
        return [ChannelMasks(shape, zero, torch.zeros(zero.shape, dtype=torch.float64))]

    def find_needed(self) -> None:
        heads = any_to_size(self.output.needed, (*self.output.needed.shape[:-1], 1))
        if not self.sums_channels:
            self.a.mark_needed(heads)
            self.b.mark_needed(self.output.needed)
            return
        factors = heads & ~self.a.zero & ~self.b.zero.mT
        for masks, needed in ((self.a, factors), (self.b, factors.mT)):
            masks.mark_needed(needed)
            masks.remaining |= needed  # a constant other than zero is still a factor

    def propagate(self) -> None:
        if self.sums_channels:
            align([self.a.remaining, self.b.remaining.mT])
        else:
            align([self.b.remaining, self.output.remaining])
        align([self.a.remaining, self.output.remaining], skip_last=True)
