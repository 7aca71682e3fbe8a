"""Attention: heads, the dimensions in which queries meet keys, and those of the values."""

from typing import Any

import torch

from ..masks import Units, reduce_any, tie
from .base import Rule, UnsupportedError


class Attention(Rule):
    """``scaled_dot_product_attention``: softmax(q k' / sqrt(d)) v over tensors (..., heads, tokens, dimension)."""

    def forward(self) -> list[Units]:
        call: dict[str, Any] = dict(
            zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), self.node.args)
        )
        call |= self.node.kwargs
        operands = [call[name] for name in ("query", "key", "value")]
        mask = call.get("attn_mask")
        if call.get("enable_gqa") or call.get("dropout_p", 0.0) != 0.0 or any(n not in self.rules for n in operands):
            raise UnsupportedError
        self.mask = self.rules[mask].out if mask in self.rules else None
        self.q, self.k, self.v = (self.rules[n].out for n in operands)
        scale = call.get("scale")
        self.scale = self.q.shape[-1] ** -0.5 if scale is None else scale
        heads = {(u.shape[:-2], u.known.shape[:-2]) for u in (self.q, self.k, self.v)}
        if len(heads) > 1 or any(u.known.ndim < 3 or not u.free(-2) for u in (self.q, self.k, self.v)):
            raise UnsupportedError
        if self.mask is not None and self.mask.known.numel() > 1:
            raise UnsupportedError
        # Weights that add up to 1 leave a constant; with a mask a row may have none.
        known = self.v.known & ((self.v.value == 0) | torch.tensor(self.mask is None))
        return [Units(tuple(self.node.meta["example"].shape), known, self.v.value)]

    def backward(self) -> None:
        self.v.require(self.out.need)
        heads = reduce_any(self.out.need, (*self.out.need.shape[:-1], 1))
        zero = self.q.known & (self.q.value == 0) | self.k.known & (self.k.value == 0)
        for units in (self.q, self.k):
            units.require(heads & ~zero)
            units.keep |= heads & ~zero  # a constant other than zero is still a factor
        if self.mask is not None:
            self.mask.require(torch.ones_like(self.mask.need))

    def tie(self) -> None:
        if self.q.known.shape != self.k.known.shape:
            self.q.keep.fill_(True)
            self.k.keep.fill_(True)
        tie([self.q.keep, self.k.keep])
        tie([self.v.keep, self.out.keep])
        tie([self.q.keep, self.v.keep], inner=True)
        if self.mask is not None:
            self.mask.keep.fill_(True)

    def rewrite(self) -> None:
        if self.q.sliced:
            self.node.kwargs = {**self.node.kwargs, "scale": self.scale}


class MatrixProduct(Rule):
    """``a @ b`` of two tensors of the graph, as where attention is written out: q k', or its softmax times v."""

    def forward(self) -> list[Units]:
        if len(self.ins) != 2 or [*self.node.args] != self.operands:
            raise UnsupportedError
        self.a, self.b = self.ins
        heads = {(u.shape[:-2], u.known.shape[:-2]) for u in self.ins}
        if len(heads) > 1 or any(u.known.ndim < 3 for u in self.ins) or not self.a.free(-2):
            raise UnsupportedError
        # Either both have units in the dimension that is summed over, or neither has and b may have them in its last.
        self.inner = not self.a.free(-1)
        if self.b.free(-2) == self.inner or (self.inner and not self.b.free(-1)):
            raise UnsupportedError
        # Other constants than zero depend on how many products are added up.
        known = (self.a.known & (self.a.value == 0)).all(-1, keepdim=True)
        known = known | (self.b.known & (self.b.value == 0)).all(-2, keepdim=True)
        return [Units(tuple(self.node.meta["example"].shape), known, torch.zeros(known.shape, dtype=torch.float64))]

    def backward(self) -> None:
        b_like_a = self.b.keep.mT if self.inner else self.b.keep
        heads = reduce_any(self.out.need, (*self.out.need.shape[:-1], 1))
        if not self.inner:
            self.a.require(heads)
            self.b.require(self.out.need)
            return
        zero_b = (self.b.known & (self.b.value == 0)).mT
        factors = heads & ~(self.a.known & (self.a.value == 0)) & ~zero_b
        self.a.require(factors)
        self.b.require(factors.mT)
        self.a.keep |= factors  # a constant other than zero is still a factor
        b_like_a |= factors

    def tie(self) -> None:
        if self.inner:
            tie([self.a.keep, self.b.keep.mT])
        else:
            tie([self.b.keep, self.out.keep])
        tie([self.a.keep, self.out.keep], inner=True)
